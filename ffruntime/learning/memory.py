"""What an update has in memory, computed from a network's description alone: as `ffruntime/memory.py`, in fp32.

An update has phases: the steps of each unit, those of the classifier, judging, and adopting. None keeps what
another needs, so its highest point is the highest phase's. Nothing else of learning is imported.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..architecture import (
    Conv,
    Linear,
    Local,
    MaxPool,
    Network,
    Shape,
    head_features,
    op_shape,
    parameter_shapes,
    shaped_ops,
    unit_name,
    unit_shapes,
)
from ..memory import (
    FLOAT,
    PROCESS,
    Kind,
    Memory,
    classifier_bytes,
    inference_memory,
    session_bytes,
    weights_bytes,
)
from . import STEP

LEARNING = 8 << 20  # measured: SQLite, random numbers, images changed anew, beside what classifying takes
ROWS = 2  # to an image: the positive and a negative one
MOMENTS = 2  # arrays as large as what is learned: Adam's
JUDGES: tuple[Kind, ...] = ("goodness", "classifier")  # an update is judged by the bundle's better mode


def learned_sizes(network: Network, *parts: str) -> list[int]:
    """Sizes of what learning changes, weights and biases, float32, of parts of the network: `unit2.`, `head.`.

    By default of all of it.
    """
    trained = [f"{unit_name(index)}." for index, unit in enumerate(network.units) if unit.trained]
    return [
        math.prod(shape) * FLOAT
        for name, shape in parameter_shapes(network).items()
        if name.startswith(parts or (*trained, "head.")) and name.endswith((".weight", ".bias"))
    ]


def learned_bytes(network: Network) -> int:
    """Size of everything that learning changes."""
    return sum(learned_sizes(network))


def update_memory(
    network: Network,
    micro_batch: int,
    batch: int = 1,
    labels: int = 1,
    process: int = PROCESS,
    workspace: int = 0,
) -> Memory:
    """Memory of one layer-local update, `micro_batch` images in one call of a gradient graph, judged in calls of
    `batch` images × `labels` labels: of the phase that needs most.

    Always there are the tensors of the version before, its classifier in the engine, and the tensors that change.
    """
    micro_batch = min(micro_batch, STEP)
    always = 2 * learned_bytes(network) + session_bytes(network, "fp32", "classifier")[0]
    phases = [
        *_units(network, micro_batch),
        _head(network, micro_batch),
        *_judging(network, batch, labels),
        _adopting(network),
    ]
    highest = max(phases, key=lambda phase: phase.total)
    return Memory(
        process + LEARNING,
        always + highest.weights,
        highest.activations,
        highest.gradients,
        highest.moments,
        workspace,
    )


def _units(network: Network, micro_batch: int) -> Iterator[Memory]:
    """Steps of each unit, and never of two.

    Its inputs and outputs are there for the whole step, everything between for one call, its gradient as that of
    the call and as the sum of those before.
    """
    moments = MOMENTS * (learned_bytes(network) - sum(learned_sizes(network, "head.")))
    unchanged = weights_bytes(network, "fp32") - learned_bytes(network)
    for index, (unit, (below, above)) in enumerate(zip(network.units, unit_shapes(network), strict=True)):
        activations = ROWS * STEP * (math.prod(below) + math.prod(above)) * FLOAT
        gradient = 0
        if unit.trained:
            activations += ROWS * micro_batch * gradient_bytes(network, index)
            gradient = 2 * sum(learned_sizes(network, f"{unit_name(index)}."))
        yield Memory(0, unchanged, activations, gradient, moments)


def _head(network: Network, micro_batch: int) -> Memory:
    """Steps of the classifier, on features from a classifier of the units as they are now."""
    features = STEP * head_features(network) * FLOAT + micro_batch * classifier_bytes(network, "fp32")
    head = sum(learned_sizes(network, "head."))
    units, _ = session_bytes(network, "fp32", "classifier")
    return Memory(0, units, features, 2 * head, MOMENTS * head)


def _judging(network: Network, batch: int, labels: int) -> Iterator[Memory]:
    """The new weights, in the engine, classify what was held back."""
    for kind in JUDGES:
        needed = inference_memory(network, "fp32", batch, labels, kind)
        yield Memory(0, needed.weights, needed.activations)


def _adopting(network: Network) -> Memory:
    """The new version is written, as a file that is made of a copy."""
    return Memory(0, 2 * learned_bytes(network), 0)


def gradient_bytes(network: Network, index: int) -> int:
    """Activations of one row, positive or negative, in a unit's gradient graph at its highest point.

    The inputs of all layers, the next unit's input twice, the gradient at a layer's output twice, and for the
    gradient of its weights the layer's input as `ffexport/adjoints.py` cuts it up.
    """
    unit, (below, above) = network.units[index], unit_shapes(network)[index]
    inputs, highest = 0, 0
    for _, op, shape, result in shaped_ops(unit, unit_name(index), below):
        size, out = math.prod(shape), math.prod(result)
        if isinstance(op, Conv | Linear):
            highest = max(highest, inputs + 2 * out + _cut(op, shape))
        elif isinstance(op, MaxPool):
            highest = max(highest, inputs + 3 * size + 2 * out)
        inputs += size
    return (highest + 2 * math.prod(above)) * FLOAT


def _cut(op: Conv | Linear, shape: Shape) -> int:
    """Elements of a layer's input, cut up for the gradient of its weights: padded, a strip of it, a tap of that."""
    if isinstance(op, Linear):
        return math.prod(shape)
    (c, height, width), (_, rows, columns) = shape, op_shape(op, shape, "")
    if isinstance(op, Local):
        return 2 * c * op.kernel**2 * rows * columns
    return c * ((height + 2 * op.padding) * (width + 2 * op.padding + columns) + rows * columns)
