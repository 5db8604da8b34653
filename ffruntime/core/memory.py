"""What a network has in memory where it classifies and where it learns, computed from its description alone.

Figures are bytes: the highest point of a process, with an engine that gives memory back (no arena). Which tensors
are alive there was read off ONNX Runtime's CPU provider, node by node; `benchmarks/memory.py` measures how far the
figures are from a fresh process.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from msgspec import Struct

from .architecture import (
    Conv,
    Linear,
    Local,
    MaxPool,
    Network,
    Shape,
    class_goodness,
    embedded_shape,
    op_shape,
    pattern_shape,
    scored_units,
    shaped_ops,
    summed_shape,
    unit_name,
    unit_shapes,
)
from .graphs import graphs as of_bundle
from .graphs import graphs_of_mode
from .layers import (
    Layer,
    Tensor,
    head_features,
    head_parameters,
    learned_tensors,
    tensors,
    unit_layers,
    unit_parameters,
)
from .learning import STEP
from .manifest import EXIT, SHORTLIST, TRAINED_MODES, Mode
from .precision import Precision

FLOAT = 4
# Measured, Linux x86-64, Python 3.11, ONNX Runtime 1.31: the command, a picture, numpy, and ONNX Runtime on a CPU
# after a call, without a network.
PROCESS = 70 << 20
LEARNING = 12 << 20  # measured: SQLite, random numbers, images changed anew, beside what classifying takes
MOMENTS = 2  # arrays as large as what is learned: Adam's


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
    """Size of every tensor of a precision's weights, all layers quantized that can be; readouts are float16 in
    int8, too."""
    sizes = {}
    for tensor in tensors(network):
        quantized = tensor.layer if tensor.role == "weight" and tensor.layer and tensor.layer.quantizable else None
        in_int8 = precision == "int8" and quantized is not None and not quantized.readout
        width = FLOAT if precision == "fp32" or not quantized else 1 if in_int8 else 2
        scales = tensor.shape[0] * FLOAT if in_int8 else 0
        sizes[tensor.name] = math.prod(tensor.shape) * width + scales
    return sizes


def weights_bytes(network: Network, precision: Precision) -> int:
    """Size of a precision's weights."""
    return sum(weight_sizes(network, precision).values())


def session_bytes(network: Network, precision: Precision, mode: Mode) -> tuple[int, int]:
    """Weights in the engine, and at the highest point of loading them.

    A convolution's are reordered, and what they were before goes only when all are loaded, as it does of a layer
    that is used at every step; a linear layer's are copied when it is packed, one layer after the other.
    Mode `exit` loads one unit after the other.
    """
    if mode == SHORTLIST:
        first, highest = session_bytes(network, precision, "classifier")
        second, later = session_bytes(network, precision, "goodness")
        return first + second, max(highest, first + later)
    steps = network.steps is not None and mode == "goodness"
    held = waiting = highest = 0
    sizes, unit, graphs = weight_sizes(network, precision), None, of_bundle(network)
    inside = frozenset().union(*(graphs[name].holds for name in graphs_of_mode(mode, network)))
    for tensor in tensors(network):
        if tensor.name not in inside:
            continue
        if mode == EXIT and tensor.unit != unit:
            unit, waiting = tensor.unit, 0
        size, op = sizes[tensor.name], tensor.layer.op if tensor.role == "weight" and tensor.layer else None
        convolution = isinstance(op, Conv) and not isinstance(op, Local)
        held += size
        waiting += size if tensor.unit is not None and (convolution or steps) else 0
        highest = max(highest, held + waiting + (size if isinstance(op, Linear) else 0))
    return held, highest


def goodness_bytes(network: Network, precision: Precision) -> int:
    """Activations of one image with one label at the highest point of a pass, or of all steps."""
    settling = _settling(network) if network.steps else 0
    return max(_embedding(network), settling, *_units(network, precision))


def exit_bytes(network: Network, precision: Precision) -> int:
    """Activations of one image at the highest point of mode `exit`, which runs unit after unit: a unit's input, and
    what its graph puts out, in the engine and as arrays."""
    shapes = unit_shapes(network)[: scored_units(network)[-1] + 1]
    between = (math.prod(below) + 5 * math.prod(above) for below, above in shapes)
    return max(goodness_bytes(network, precision), *(elements * FLOAT for elements in between))


def classifier_bytes(network: Network, precision: Precision) -> int:
    """Activations of one image in the classifier's pass: of scored units they wait, are normalised and joined."""
    shapes, scored, waiting, highest = unit_shapes(network), {*scored_units(network)}, 0, _embedding(network)
    for index, alive in enumerate(_units(network, precision)):
        highest = max(highest, waiting + alive)
        if index in scored:
            waiting += math.prod(shapes[index][1]) * FLOAT
    return max(highest, 2 * head_features(network) * FLOAT)


def _embedding(network: Network) -> int:
    """Bytes alive while one image is prepared, a label put into it unless goodness is of every class."""
    image, label = math.prod(network.image.shape), network.label
    if class_goodness(network):
        return 2 * image * FLOAT
    pattern, embedded = math.prod(pattern_shape(network)), math.prod(embedded_shape(network))
    elements = (label.element + 1) * image if label.placement == "morphology" else 0
    return (image + pattern + 2 * embedded + elements) * FLOAT


def _units(network: Network, precision: Precision) -> Iterator[int]:
    """Bytes that each unit has alive at its highest point, for one row of its input from below."""
    for index, (unit, (below, above)) in enumerate(zip(network.units, unit_shapes(network), strict=True)):
        alive = [(1 if unit.inputs[0].normalise == "none" else 2) * math.prod(below) * FLOAT]
        for layer in unit_layers(network, index):
            if layer.from_below:
                ends = math.prod(layer.before) + math.prod(layer.after)
                alive.append(ends * FLOAT + _quantized_bytes(layer, precision))
        top = index + 1 == len(network.units)
        # y and y², one of them in two layouts; or y and what the readout and the next unit make of it.
        copies = 3 if class_goodness(network) else 2
        alive.append((copies if top else copies + 1) * math.prod(above) * FLOAT)
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


def _quantized_bytes(layer: Layer, precision: Precision) -> int:
    """The copy of a layer's input in the layer's own type; of int8 the rounded values beside it."""
    if precision == "fp32" or not layer.quantizable:
        return 0
    return math.prod(layer.before) * (2 if precision == "fp16" else 1 + FLOAT)


def inference_memory(
    network: Network,
    precision: Precision,
    batch: int,
    labels: int,
    mode: Mode,
    process: int = PROCESS,
    workspace: int = 0,
) -> Memory:
    """Memory of classifying `batch` images in one call, each with `labels` labels."""
    held, loading = session_bytes(network, precision, mode)
    calls = 0
    if mode == EXIT:
        calls = batch * exit_bytes(network, precision)
    elif mode != "classifier":
        calls = batch * labels * goodness_bytes(network, precision)
    if mode in ("classifier", SHORTLIST):
        calls = max(calls, batch * classifier_bytes(network, precision))
    return Memory(process, held, max(calls, loading - held), workspace=workspace)


def learned_bytes(network: Network) -> int:
    """Size of everything that learning changes."""
    trained = (index for index, unit in enumerate(network.units) if unit.trained)
    return _bytes(learned_tensors(network, trained))


def _bytes(some: Iterable[Tensor]) -> int:
    """Size of tensors in float32."""
    return sum(math.prod(tensor.shape) for tensor in some) * FLOAT


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

    An update has phases: the steps of each unit, those of the classifier, judging, and adopting. None keeps what
    another needs, so its highest point is the highest phase's. The tensors of the version before, its classifier in
    the engine, and the tensors that change are there all the time. With class goodness there is no classifier.
    """
    micro_batch = min(micro_batch, STEP)
    always = 2 * learned_bytes(network)
    phases = [*_unit_steps(network, micro_batch), *_judging(network, batch, labels), _adopting(network)]
    if not class_goodness(network):
        always += session_bytes(network, "fp32", "classifier")[0]
        phases.append(_head_steps(network, micro_batch))
    highest = max(phases, key=lambda phase: phase.total)
    return Memory(
        process + LEARNING,
        always + highest.weights,
        highest.activations,
        highest.gradients,
        highest.moments,
        workspace,
    )


def _unit_steps(network: Network, micro_batch: int) -> Iterator[Memory]:
    """Steps of each unit, and never of two.

    Its inputs and outputs are there for the whole step, the outputs in the inputs' place where both are of one
    shape and there are several calls. Everything between is there for one call, its gradient as that of the call
    and as the sum of those before. To an image there are two rows, the positive and a negative one; with class
    goodness, one.
    """
    rows = 1 if class_goodness(network) else 2
    moments = MOMENTS * (learned_bytes(network) - _bytes(head_parameters(network)))
    unchanged = weights_bytes(network, "fp32") - learned_bytes(network)
    for index, (unit, (below, above)) in enumerate(zip(network.units, unit_shapes(network), strict=True)):
        in_place = unit.trained and below == above and micro_batch < STEP
        activations = rows * STEP * (math.prod(below) + (0 if in_place else math.prod(above))) * FLOAT
        gradient = 0
        if unit.trained:
            activations += rows * micro_batch * gradient_bytes(network, index)
            gradient = 2 * _bytes(unit_parameters(network, index))
        yield Memory(0, unchanged, activations, gradient, moments)


def _head_steps(network: Network, micro_batch: int) -> Memory:
    """Steps of the classifier, on features from a classifier of the units as they are now."""
    features = STEP * head_features(network) * FLOAT + micro_batch * classifier_bytes(network, "fp32")
    head = _bytes(head_parameters(network))
    units, _ = session_bytes(network, "fp32", "classifier")
    return Memory(0, units, features, 2 * head, MOMENTS * head)


def _judging(network: Network, batch: int, labels: int) -> Iterator[Memory]:
    """The new weights, in the engine, classify what was held back, by the bundle's better mode."""
    for mode in TRAINED_MODES[:1] if class_goodness(network) else TRAINED_MODES:
        needed = inference_memory(network, "fp32", batch, labels, mode)
        yield Memory(0, needed.weights, needed.activations)


def _adopting(network: Network) -> Memory:
    """The new version is written, as a file that is made of a copy."""
    return Memory(0, 2 * learned_bytes(network), 0)


def gradient_bytes(network: Network, index: int) -> int:
    """Activations of one row, positive or negative, in a unit's gradient graph at its highest point.

    The inputs of all layers, the next unit's input twice, the gradient at a layer's output twice, and for the
    gradient of its weights the layer's input as `ffexport/layer_graphs.py` cuts it up.
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
