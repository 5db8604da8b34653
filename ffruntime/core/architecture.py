"""The architecture description: what a network is, not how it is computed.

One description, two interpreters: torch (`fftrain/network.py`) and ONNX (`ffexport/inference_graphs.py`).
`docs/architecture.md` shows how it carries every system this project is for. It is written as JSON in a bundle's
manifest and as TOML in a recipe, with the same field names. `layers.py` works out its layers and tensors.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from .errors import BundleError

Positive: TypeAlias = Annotated[int, Meta(ge=1, le=1_000_000)]
NonNegative: TypeAlias = Annotated[int, Meta(ge=0, le=1_000_000)]
Shape: TypeAlias = tuple[int, ...]  # without the batch: (C, H, W) or (N,)

EPS_DIVISIVE = 1e-8  # x / sqrt(mean(x²) + EPS_DIVISIVE)
EPS_BATCH = 1e-5  # (x − mean) / sqrt(var + EPS_BATCH), per channel


class Conv(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="conv"):
    """2-D convolution with square kernels: (C, H, W) -> (out, H', W')."""

    out: Positive
    kernel: Positive
    stride: Positive = 1
    padding: NonNegative = 0
    bias: bool = True


class Local(Conv, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="local"):
    """Locally connected (Hinton, section 4): a convolution whose weights are not shared between positions.

    (C, H, W) -> (out, H', W'); weight (H', W', out, C, kernel, kernel), bias (out, H', W').
    """


class Linear(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="linear"):
    """Fully connected: any shape, flattened in C order, -> (out,)."""

    out: Positive
    bias: bool = True


class MaxPool(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="max_pool"):
    """Non-overlapping maximum over size × size windows; an incomplete last window is dropped."""

    size: Positive = 2


class Relu(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="relu"):
    """max(x, 0)."""


Op: TypeAlias = Conv | Local | Linear | MaxPool | Relu


Source: TypeAlias = Literal["below", "above", "self"]


class Input(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a unit's input comes from and how it is normalised before its first operation.

    `divisive` divides each sample by the root of its mean square (Hinton; Scodellaro et al.);
    `batch` standardises each channel with batch statistics, frozen outside training (Trifecta).
    In a recurrent network (`Steps`) a unit has several: from the unit `below`, the one `above` (of the topmost, the
    label) and from it`self`, of a step ago. Each has its own `ops`; what they make is added up.
    """

    source: Source = "below"
    normalise: Literal["none", "divisive", "batch"] = "divisive"
    ops: tuple[Op, ...] = ()


class Unit(Struct, frozen=True, forbid_unknown_fields=True):
    """Operations that end in one ReLU, whose mean square is the unit's goodness."""

    ops: Annotated[tuple[Op, ...], Meta(min_length=1)]
    inputs: Annotated[tuple[Input, ...], Meta(min_length=1, max_length=3)] = (Input(),)
    trained: bool = True  # by its own loss; otherwise it stays as initialised
    scored: bool = True  # counts in the total goodness and feeds the classifier


class Image(Struct, frozen=True, forbid_unknown_fields=True):
    """The image: pixels in [0, 1], then (x − mean) / std in every channel."""

    shape: tuple[Positive, Positive, Positive]  # (C, H, W)
    mean: float = 0.0
    std: Annotated[float, Meta(gt=0)] = 1.0


class Label(Struct, frozen=True, forbid_unknown_fields=True):
    """How a label's pattern reaches the first unit.

    `add`: keep · image + pattern, pixel by pixel (`labels.keep` is a tensor, so that a pattern can
    also *replace* pixels); `channel`: the pattern as further channels beside the image; `morphology`:
    keep · image + (1 − keep) · the image eroded or dilated by the pattern, a structuring element of
    `element` × `element` pixels (`ffruntime/embedding.py`). `range` then brings each sample to [0, 1]
    (Scodellaro et al.). With `top` the image stays as it is: the pattern, a vector of `channels` numbers, is what
    the topmost unit of a recurrent network has above it (Hinton, section 3.4).
    """

    placement: Literal["add", "channel", "morphology", "top"]
    patterns: Positive  # how many: one for every class, and the spare ones
    channels: Positive = 1
    normalise: Literal["none", "range"] = "none"
    element: Positive = 1  # pixels a side of a structuring element; odd


class Steps(Struct, frozen=True, forbid_unknown_fields=True):
    """How a recurrent network runs: `count` synchronous steps (Hinton, section 3.4).

    Before the first, activities are those of one pass from below alone. In a step each unit's activity becomes
    damping · its activity + (1 − damping) · what the unit makes of its inputs of a step ago. Its goodness is the
    mean over the steps from score[0] to score[1], counted from 1.
    """

    count: Annotated[int, Meta(ge=1, le=1000)]
    damping: Annotated[float, Meta(ge=0, lt=1)]
    score: tuple[Positive, Positive]


class Network(Struct, frozen=True, forbid_unknown_fields=True, cache_hash=True):
    """An FF network: image and label -> units, each with a goodness -> one total, the most for the right label.

    `score` says how the scored units' goodness makes the total: `sum` (Scodellaro et al.), or
    `log_sum`, the sum of logarithms, which weighs every unit alike. Where goodness is to be `low` for right labels
    (Hinton, section 4), the total is its negative. Without `steps` the network is feed-forward: one pass.
    """

    image: Image
    label: Label
    units: Annotated[tuple[Unit, ...], Meta(min_length=1, max_length=1000)]
    score: Literal["sum", "log_sum"] = "sum"
    goodness: Literal["high", "low"] = "high"
    steps: Steps | None = None


def unit_name(index: int) -> str:
    """`unit1` for the unit at index 0: the name in files, parameters and tables."""
    return f"unit{index + 1}"


def named_ops(chain: Unit | Input) -> Iterator[tuple[str, Op]]:
    """The operations of a unit or an input, each with the name its parameters have: `conv1`, `relu1`, `conv2`, …"""
    seen: dict[str, int] = {}
    for op in chain.ops:
        kind = str(op.__struct_config__.tag)
        seen[kind] = seen.get(kind, 0) + 1
        yield f"{kind}{seen[kind]}", op


def embedded_shape(network: Network) -> Shape:
    """Shape of the image with a label in it: what the first unit receives."""
    c, h, w = network.image.shape
    return (c + network.label.channels, h, w) if network.label.placement == "channel" else (c, h, w)


def pattern_shape(network: Network) -> Shape:
    """Shape of one label pattern: as large as the image, a structuring element, or a vector at the top."""
    label = network.label
    if label.placement == "top":
        return (label.channels,)
    sides = (label.element,) * 2 if label.placement == "morphology" else network.image.shape[1:]
    return (label.channels, *sides)


def op_shape(op: Op, shape: Shape, where: str) -> Shape:
    """Shape that `op` makes of `shape`. Raises `BundleError` naming `where` if it cannot be applied."""
    if isinstance(op, Relu):
        return shape
    if isinstance(op, Linear):
        return (op.out,)
    if len(shape) != 3:
        raise BundleError(f"{where}: needs an image (C, H, W), got {shape}")
    c, h, w = shape
    if isinstance(op, MaxPool):
        out = (c, h // op.size, w // op.size)
    else:
        out = (
            op.out,
            (h + 2 * op.padding - op.kernel) // op.stride + 1,
            (w + 2 * op.padding - op.kernel) // op.stride + 1,
        )
    if min(out) < 1:
        raise BundleError(f"{where}: nothing is left of {shape}")
    return out


def shaped_ops(chain: Unit | Input, prefix: str, shape: Shape) -> Iterator[tuple[str, Op, Shape, Shape]]:
    """Every operation of a unit or an input that receives `shape`: (name, operation, shape before it, after it)."""
    for name, op in named_ops(chain):
        below, shape = shape, op_shape(op, shape, f"{prefix}.{name}")
        yield name, op, below, shape


def shape_after(chain: Unit | Input, prefix: str, shape: Shape) -> Shape:
    """What the operations of a unit or an input make of `shape`."""
    for _, _, _, above in shaped_ops(chain, prefix, shape):
        shape = above
    return shape


def unit_shapes(network: Network) -> list[tuple[Shape, Shape]]:
    """(shape from below, activation shape) of every unit, without the batch."""
    return list(_unit_shapes(network))


@functools.lru_cache(maxsize=16)  # asked for again for every unit, of which there may be a thousand
def _unit_shapes(network: Network) -> tuple[tuple[Shape, Shape], ...]:
    shape, shapes = embedded_shape(network), []
    for index, unit in enumerate(network.units):
        above = shape_after(unit, unit_name(index), summed_shape(unit, index, shape))
        shapes.append((shape, above))
        shape = above
    return tuple(shapes)


def summed_shape(unit: Unit, index: int, below: Shape) -> Shape:
    """Shape of what a unit's own operations receive: of the sum of its inputs, which is that of the first."""
    return shape_after(unit.inputs[0], f"{unit_name(index)}.below", below)


def source_shape(network: Network, index: int, source: Source) -> Shape:
    """Shape of what a unit gets from that source."""
    shapes = unit_shapes(network)
    if source == "above":
        return shapes[index + 1][1] if index + 1 < len(shapes) else pattern_shape(network)
    return shapes[index][0 if source == "below" else 1]


def scored_units(network: Network) -> list[int]:
    """Indices of the units that count at inference."""
    return [index for index, unit in enumerate(network.units) if unit.scored]


def constant_inputs(network: Network) -> tuple[tuple[int, Input], tuple[int, Input]]:
    """The inputs of a recurrent network that receive the same in every step, each with its unit's index: that of
    the first unit from below, the image, and that of the last from above, the label."""
    top = len(network.units) - 1
    (above,) = (inputs for inputs in network.units[top].inputs if inputs.source == "above")
    return (0, network.units[0].inputs[0]), (top, above)


def sign(network: Network) -> int:
    """1 where goodness is to be high for right labels, −1 where it is to be low."""
    return 1 if network.goodness == "high" else -1


def validate(network: Network) -> None:
    """Raise `BundleError` unless the description can be computed; the message says where it cannot."""
    unit_shapes(network)
    if not scored_units(network):
        raise BundleError("network: no unit is scored, so there is no goodness to classify by")
    for index, unit in enumerate(network.units):
        if not isinstance(unit.ops[-1], Relu):
            raise BundleError(f"{unit_name(index)}: its last operation must be relu")
        if any(isinstance(a, Relu) and isinstance(b, Relu) for a, b in zip(unit.ops, unit.ops[1:], strict=False)):
            raise BundleError(f"{unit_name(index)}: a relu after a relu does nothing")
    if network.label.placement == "add" and network.label.channels not in (1, network.image.shape[0]):
        raise BundleError("label: added patterns need one channel, or as many as the image")
    _validate_element(network.label, network.image.shape)
    _validate_inputs(network)


def _validate_inputs(network: Network) -> None:
    steps, last, shapes = network.steps, len(network.units) - 1, unit_shapes(network)
    if (steps is None) != (network.label.placement != "top"):
        raise BundleError("network: a label at the top needs steps, and steps need a label at the top")
    if steps is not None and not steps.score[0] <= steps.score[1] <= steps.count:
        raise BundleError(f"steps: goodness of steps {steps.score[0]} to {steps.score[1]} of {steps.count}")
    for index, unit in enumerate(network.units):
        name, sources = unit_name(index), [inputs.source for inputs in unit.inputs]
        if sources[0] != "below" or len(set(sources)) < len(sources):
            raise BundleError(f"{name}: its inputs are from below, and then from others, each once")
        if steps is None and (len(sources) > 1 or unit.inputs[0].ops):
            raise BundleError(f"{name}: several inputs, and operations of an input, need steps")
        if steps is not None and any(inputs.normalise == "batch" for inputs in unit.inputs):
            raise BundleError(f"{name}: batch statistics are not for recurrent networks")
        if steps is not None and index == last and "above" not in sources:
            raise BundleError(f"{name}: the topmost unit needs an input from above, where the label is")
        summed = summed_shape(unit, index, shapes[index][0])
        for inputs in unit.inputs[1:]:
            path = f"{name}.{inputs.source}"
            made = shape_after(inputs, path, source_shape(network, index, inputs.source))
            if math.prod(made) != math.prod(summed):
                raise BundleError(f"{path}: makes {made}, and below {summed}; they cannot be added")


def _validate_element(label: Label, image: Shape) -> None:
    if label.placement != "morphology":
        if label.element != 1:
            raise BundleError(f"label: placement {label.placement} has no structuring elements")
    elif label.channels != 1:
        raise BundleError("label: a structuring element has one channel")
    elif label.element % 2 == 0 or label.element > min(image[1:]):
        raise BundleError(f"label: an element of {label.element} pixels is not odd or exceeds the image")
