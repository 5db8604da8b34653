"""The architecture description: what a network is, not how it is computed.

One description, two interpreters: torch (`fftrain/network.py`) and ONNX (`ffexport/inference_graphs.py`).
`docs/architecture.md` shows how it carries every system this project is for. It is written as JSON in a bundle's
manifest and as TOML in a recipe, with the same field names. `layers.py` works out its layers and tensors.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from .errors import BundleError

Positive: TypeAlias = Annotated[int, Meta(ge=1, le=1_000_000)]
NonNegative: TypeAlias = Annotated[int, Meta(ge=0, le=1_000_000)]
Shape: TypeAlias = tuple[int, ...]  # without the batch: (C, H, W) or (N,)

EPS_DIVISIVE = 1e-8  # x / sqrt(mean(x²) + EPS_DIVISIVE)
EPS_BATCH = 1e-5  # (x − mean) / sqrt(var + EPS_BATCH), per channel, per group of channels, or per sample


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


class AvgPool(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="avg_pool"):
    """Non-overlapping mean over size × size windows; an incomplete last window is dropped."""

    size: Positive = 2


class Relu(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="relu"):
    """max(x, 0)."""


class LeakyRelu(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="leaky_relu"):
    """x where it is positive, else slope · x."""

    slope: Annotated[float, Meta(gt=0, lt=1)] = 0.1


Op: TypeAlias = Conv | Local | Linear | MaxPool | AvgPool | Relu | LeakyRelu


Source: TypeAlias = Literal["below", "above", "self"]
Normalise: TypeAlias = Literal["none", "divisive", "batch", "layer", "group", "instance"]


class Input(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a unit's input comes from and how it is normalised before its first operation.

    `divisive` divides each sample by the root of its mean square (Hinton; Scodellaro et al.);
    `batch` standardises each channel with batch statistics, frozen outside training (Trifecta). Three need no
    batch: `layer` standardises each sample (Ba et al. 2016), `instance` each of its channels (Ulyanov et al. 2016),
    `group` each of `groups` equal groups of them (Wu and He 2018). None has a gain of its own.
    In a recurrent network (`Steps`) a unit has several: from the unit `below`, the one `above` (of the topmost, the
    label) and from it`self`, of a step ago. Each has its own `ops`; what they make is added up.
    """

    source: Source = "below"
    normalise: Normalise = "divisive"
    ops: tuple[Op, ...] = ()
    groups: Positive = 1  # of channels, for `group`


class Readout(Struct, frozen=True, forbid_unknown_fields=True):
    """How a unit's activation gives every class a goodness of its own (`Network`): class goodness.

    Each channel is averaged to at most `cells` × `cells` cells, flattened in C order, normalised divisively: z;
    every class and every spare one has a row of weights and a bias: G_j = R_j · z + b_j. Of a side of n pixels,
    cell i holds those from ⌊i·n / cells⌋ up to ⌊(i + 1)·n / cells⌋. Local classifiers (Nøkland and Eidnes 2019).
    """

    cells: Positive = 4


class Unit(Struct, frozen=True, forbid_unknown_fields=True):
    """Operations that end in one ReLU. The mean square of its activation is the unit's goodness; with a `readout`,
    every class has a goodness of its own.

    With `shortcut` the unit's normalised input is added before the closing ReLU: the detached activation of one
    unit back (as in DeeperForward).
    """

    ops: Annotated[tuple[Op, ...], Meta(min_length=1)]
    inputs: Annotated[tuple[Input, ...], Meta(min_length=1, max_length=3)] = (Input(),)
    trained: bool = True  # by its own loss; otherwise it stays as initialised
    scored: bool = True  # counts in the total goodness and feeds the classifier
    readout: Readout | None = None
    shortcut: bool = False


class Image(Struct, frozen=True, forbid_unknown_fields=True):
    """The image: pixels in [0, 1], then (x − mean) / std in every channel."""

    shape: tuple[Positive, Positive, Positive]  # (C, H, W)
    mean: float = 0.0
    std: Annotated[float, Meta(gt=0)] = 1.0


Placement: TypeAlias = Literal["add", "channel", "morphology", "top", "readout"]


class Label(Struct, frozen=True, forbid_unknown_fields=True):
    """How a label's pattern reaches the first unit.

    `add`: keep · image + pattern, pixel by pixel (`labels.keep` is a tensor, so that a pattern can
    also *replace* pixels); `channel`: the pattern as further channels beside the image; `morphology`:
    keep · image + (1 − keep) · the image eroded or dilated by the pattern, a structuring element of
    `element` × `element` pixels (`ffruntime/embedding.py`). `range` then brings each sample to [0, 1]
    (Scodellaro et al.). With `top` the image stays as it is: the pattern, a vector of `channels` numbers, is what
    the topmost unit of a recurrent network has above it (Hinton, section 3.4). With `readout` there are no
    patterns: a label is in no input, and has a row in the units' readouts.
    """

    placement: Placement
    patterns: Positive  # how many, or how many rows: one for every class, and the spare ones
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

    With *class goodness* (`class_goodness`) a pass gives every class a goodness in every unit; the total of a class
    is a weighted sum over the scored units, whose weights are a tensor (`total.weights`).
    """

    image: Image
    label: Label
    units: Annotated[tuple[Unit, ...], Meta(min_length=1, max_length=1000)]
    score: Literal["sum", "log_sum"] = "sum"
    goodness: Literal["high", "low"] = "high"
    steps: Steps | None = None


def class_goodness(network: Network) -> bool:
    """Whether one pass gives every class a goodness of its own, by the units' readouts; otherwise the label is in
    the input (or above the topmost unit), and a pass gives one label's."""
    return network.label.placement == "readout"


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
    if isinstance(op, Relu | LeakyRelu):
        return shape
    if isinstance(op, Linear):
        return (op.out,)
    if len(shape) != 3:
        raise BundleError(f"{where}: needs an image (C, H, W), got {shape}")
    c, h, w = shape
    if isinstance(op, MaxPool | AvgPool):
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


def readout_cells(readout: Readout, shape: Shape) -> Shape:
    """Shape that an activation has when it is averaged for a readout: (C, cells, cells) at most, or (N,)."""
    return (shape[0], *(min(side, readout.cells) for side in shape[1:]))


def cell_edges(side: int, cells: int) -> list[int]:
    """Where the cells of a side begin, and where the last one ends: `Readout`."""
    return [index * side // cells for index in range(cells + 1)]


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
        if not isinstance(unit.ops[-1], Relu | LeakyRelu):
            raise BundleError(f"{unit_name(index)}: its last operation must be relu or leaky_relu")
        kinds = [isinstance(op, Relu | LeakyRelu) for op in unit.ops]
        if any(a and b for a, b in pairwise(kinds)):
            raise BundleError(f"{unit_name(index)}: a relu after a relu does nothing")
    if network.label.placement == "add" and network.label.channels not in (1, network.image.shape[0]):
        raise BundleError("label: added patterns need one channel, or as many as the image")
    _validate_element(network.label, network.image.shape)
    _validate_readouts(network)
    _validate_inputs(network)


def _validate_readouts(network: Network) -> None:
    of_classes = class_goodness(network)
    if of_classes and (network.score != "sum" or network.goodness != "high" or network.label.normalise != "none"):
        raise BundleError("network: class goodness is summed over the units and high, and nothing is in the image")
    for index, unit in enumerate(network.units):
        needed = of_classes and (unit.trained or unit.scored)
        if needed and unit.readout is None:
            raise BundleError(f"{unit_name(index)}: needs a readout, or is neither trained nor scored")
        if unit.readout and not of_classes:
            raise BundleError(f"{unit_name(index)}: a readout needs label.placement 'readout'")
        if isinstance(unit.ops[-1], LeakyRelu) and not of_classes:
            raise BundleError(f"{unit_name(index)}: goodness of a label in the input is that of a relu")


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
        if steps is not None and index == last and "above" not in sources:
            raise BundleError(f"{name}: the topmost unit needs an input from above, where the label is")
        summed = summed_shape(unit, index, shapes[index][0])
        _validate_normalisation(name, unit, summed, steps is not None)
        for inputs in unit.inputs[1:]:
            path = f"{name}.{inputs.source}"
            made = shape_after(inputs, path, source_shape(network, index, inputs.source))
            if math.prod(made) != math.prod(summed):
                raise BundleError(f"{path}: makes {made}, and below {summed}; they cannot be added")


def _validate_normalisation(name: str, unit: Unit, below: Shape, recurrent: bool) -> None:
    """`below`: what the unit's own operations receive."""
    for inputs in unit.inputs:
        if recurrent and inputs.normalise not in ("none", "divisive"):
            raise BundleError(f"{name}: an input of a recurrent network is normalised divisively, or not at all")
        if inputs.groups > 1 and inputs.normalise != "group":
            raise BundleError(f"{name}: groups of channels are for normalise = 'group'")
        if inputs.normalise in ("group", "instance") and len(below) != 3:
            raise BundleError(f"{name}: normalise = '{inputs.normalise}' needs an image (C, H, W), got {below}")
        if below[0] % inputs.groups:
            raise BundleError(f"{name}: {below[0]} channels are no {inputs.groups} equal groups")
    if unit.shortcut:
        *_, (_, _, given, _) = shaped_ops(unit, name, below)
        if given != below:
            raise BundleError(f"{name}: a shortcut needs one shape, and the input has {below}, the relu's {given}")
        if recurrent:
            raise BundleError(f"{name}: a shortcut is not for recurrent networks")


def _validate_element(label: Label, image: Shape) -> None:
    if label.placement != "morphology":
        if label.element != 1:
            raise BundleError(f"label: placement {label.placement} has no structuring elements")
    elif label.channels != 1:
        raise BundleError("label: a structuring element has one channel")
    elif label.element % 2 == 0 or label.element > min(image[1:]):
        raise BundleError(f"label: an element of {label.element} pixels is not odd or exceeds the image")
