"""What a network has in memory where it classifies, computed from its description alone.

Figures are bytes: the highest point of a process, with an engine that gives memory back (no arena). Which tensors
are alive there was read off ONNX Runtime's CPU provider, node by node; `benchmarks/memory.py` measures how far the
figures are from a fresh process. What an update has is in `learning/memory.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, TypeAlias

from msgspec import Struct

from .architecture import (
    Conv,
    Linear,
    Local,
    Network,
    Op,
    embedded_shape,
    from_below,
    head_features,
    parameter_shapes,
    pattern_shape,
    scored_units,
    summed_shape,
    unit_layers,
    unit_shapes,
)
from .precision import Precision

FLOAT = 4
# Measured, Linux x86-64, Python 3.11, ONNX Runtime 1.31: the command, a picture, numpy, and ONNX Runtime on a CPU
# after a call, without a network.
PROCESS = 68 << 20

Kind: TypeAlias = Literal["goodness", "classifier", "shortlist"]  # of inference


class Memory(Struct, frozen=True):
    """What is in memory at the highest point."""

    process: int
    weights: int
    activations: int  # with an engine's temporaries
    gradients: int = 0
    moments: int = 0
    workspace: int = 0  # of an engine

    @property
    def total(self) -> int:
        return sum(getattr(self, name) for name in self.__struct_fields__)


def weight_sizes(network: Network, precision: Precision) -> dict[str, int]:
    """Size of every tensor of a precision's weights, all layers lowered."""
    width = {"fp32": FLOAT, "fp16": 2, "int8": 1}[precision]
    sizes = {}
    for name, shape in parameter_shapes(network).items():
        lowered = name.endswith(".weight") and len(shape) != 6  # a local layer's has six axes and stays as it is
        scales = shape[0] * FLOAT if lowered and precision == "int8" else 0
        sizes[name] = math.prod(shape) * (width if lowered else FLOAT) + scales
    return sizes


def weights_bytes(network: Network, precision: Precision) -> int:
    """Size of a precision's weights."""
    return sum(weight_sizes(network, precision).values())


def session_bytes(network: Network, precision: Precision, kind: Kind) -> tuple[int, int]:
    """Weights in the engine, and at the highest point of loading them.

    A convolution's are reordered, and what they were before goes only when all are loaded, as it does of a layer
    that is used at every step; a linear layer's are copied when it is packed, one layer after the other.
    """
    if kind == "shortlist":
        (first, highest), (second, later) = (
            session_bytes(network, precision, k) for k in ("classifier", "goodness")
        )
        return first + second, max(highest, first + later)
    steps = network.steps is not None and kind == "goodness"
    held = waiting = highest = 0
    shapes = parameter_shapes(network)
    for name, size in weight_sizes(network, precision).items():
        if name.startswith("head.") if kind == "goodness" else not from_below(name):
            continue
        axes = len(shapes[name])
        held += size
        waiting += size if (axes == 4 or steps) and name.startswith("unit") else 0
        highest = max(highest, held + waiting + (size if axes == 2 else 0))
    return held, highest


def goodness_bytes(network: Network, precision: Precision) -> int:
    """Activations of one image with one label at the highest point of a pass, or of all steps."""
    settling = _settling(network) if network.steps else 0
    return max(_embedding(network), settling, *_units(network, precision))


def classifier_bytes(network: Network, precision: Precision) -> int:
    """Activations of one image in the classifier's pass: of scored units they wait, are normalised and joined."""
    shapes, waiting, highest = unit_shapes(network), 0, _embedding(network)
    for index, alive in enumerate(_units(network, precision)):
        highest = max(highest, waiting + alive)
        if index in scored_units(network):
            waiting += math.prod(shapes[index][1]) * FLOAT
    return max(highest, 2 * head_features(network) * FLOAT)


def _embedding(network: Network) -> int:
    """Bytes alive while a label is put into one image."""
    image, label = math.prod(network.image.shape), network.label
    pattern, embedded = math.prod(pattern_shape(network)), math.prod(embedded_shape(network))
    elements = (label.element + 1) * image if label.placement == "morphology" else 0
    return (image + pattern + 2 * embedded + elements) * FLOAT


def _units(network: Network, precision: Precision) -> Iterator[int]:
    """Bytes that each unit has alive at its highest point, for one row of its input from below."""
    for index, (unit, (below, above)) in enumerate(zip(network.units, unit_shapes(network), strict=True)):
        alive = [(1 if unit.inputs[0].normalise == "none" else 2) * math.prod(below) * FLOAT]
        for name, op, shape, result in unit_layers(network, index):
            if not from_below(name):
                continue
            alive.append((math.prod(shape) + math.prod(result)) * FLOAT + _lowered_bytes(op, shape, precision))
        top = index + 1 == len(network.units)
        alive.append((2 if top else 3) * math.prod(above) * FLOAT)  # y and y², one of them in two layouts
        yield max(alive)


def _settling(network: Network) -> int:
    """Bytes alive in a step of a recurrent network: all activities, before it and after, what does not change from
    step to step, and of one unit what its inputs add, with one of them normalised."""
    shapes = unit_shapes(network)
    sums = [
        math.prod(summed_shape(unit, index, below))
        for index, (unit, (below, _)) in enumerate(zip(network.units, shapes, strict=True))
    ]
    activities = [math.prod(above) for _, above in shapes]
    unit = max(len(unit.inputs) * size for unit, size in zip(network.units, sums, strict=True))
    return (2 * sum(activities) + sums[0] + sums[-1] + unit + max(activities)) * FLOAT


def _lowered_bytes(op: Op, shape: tuple[int, ...], precision: Precision) -> int:
    """The copy of a layer's input in the layer's own type; of int8 the rounded values beside it."""
    if precision == "fp32" or isinstance(op, Local) or not isinstance(op, Conv | Linear):
        return 0
    return math.prod(shape) * (2 if precision == "fp16" else 1 + FLOAT)


def inference_memory(
    network: Network,
    precision: Precision,
    batch: int,
    labels: int,
    kind: Kind,
    process: int = PROCESS,
    workspace: int = 0,
) -> Memory:
    """Memory of classifying `batch` images in one call, each with `labels` labels."""
    held, loading = session_bytes(network, precision, kind)
    calls = 0
    if kind != "classifier":
        calls = batch * labels * goodness_bytes(network, precision)
    if kind != "goodness":
        calls = max(calls, batch * classifier_bytes(network, precision))
    return Memory(process, held, max(calls, loading - held), workspace=workspace)
