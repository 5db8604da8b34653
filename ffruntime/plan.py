"""What a network needs on a device, computed from its description alone, and whether a device profile has it.

Figures are bytes unless their name says MiB: the highest point of a process, with an engine that gives memory back
(no arena). Which tensors are alive there was read off ONNX Runtime's CPU provider, node by node;
`benchmarks/memory.py` measures how far the figures are from a fresh process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

from .architecture import (
    Conv,
    Linear,
    Local,
    MaxPool,
    Network,
    Op,
    Shape,
    embedded_shape,
    head_features,
    op_shape,
    parameter_shapes,
    pattern_shape,
    scored_units,
    shaped_ops,
    unit_name,
    unit_shapes,
)
from .chunks import BATCH
from .errors import BackendError
from .learning import KEPT as VERSIONS
from .learning import MICRO_BATCH, STEP
from .learning import REPLAY_BYTES as REPLAY
from .precision import Precision, in_folder
from .profile import Profile

MIB = 1 << 20
FLOAT = 4
# Measured, Linux x86-64, Python 3.11, ONNX Runtime 1.31:
PROCESS = 68 * MIB  # the command, a picture, numpy, and ONNX Runtime on a CPU after a call, without a network
LEARNING = 8 * MIB  # what `ffruntime learn` has beside: SQLite, random numbers, images changed anew
CUDA = 512 * MIB  # an assumption: CUDA's context and libraries
MARGIN = 1.1  # measured over planned, at most: `benchmarks/memory.py`
GRAPHS = 256 << 10  # all graphs of a precision together, generously

Kind: TypeAlias = Literal["goodness", "classifier", "shortlist"]  # of inference
KINDS: tuple[Kind, ...] = ("goodness", "classifier", "shortlist")
Use: TypeAlias = Kind | Literal["update"]


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


class Verdict(Struct, frozen=True):
    """Whether a network fits a device: the largest calls that do, and what they need."""

    device: str
    precision: Precision
    batch: int  # images (in an update, pairs) in one call
    labels: int  # labels tried in one call
    inference: Memory
    update: Memory  # of one unit, layer-local
    memory: int  # what there is
    flash_needed: int  # bundle, this precision, learned versions, and examples
    flash: int
    formats: tuple[str, ...]  # of graphs and engines that it runs: `onnx`, and an engine library's, best first

    @property
    def fits(self) -> bool:
        return max(self.inference.total, self.update.total) <= self.memory and self.flash_needed <= self.flash


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


def learned_bytes(network: Network) -> int:
    """Size of everything that learning changes: weights and biases, float32."""
    trained = (f"{unit_name(index)}." for index, unit in enumerate(network.units) if unit.trained)
    return _parameter_bytes(parameter_shapes(network), *trained, "head.")


def _parameter_bytes(shapes: Mapping[str, Shape], *parts: str) -> int:
    """Size of the weights and biases, float32, of parts of the network: `unit2.`, `head.`."""
    chosen = [
        shape for name, shape in shapes.items() if name.startswith(parts) and name.endswith((".weight", ".bias"))
    ]
    return sum(map(math.prod, chosen)) * FLOAT


def session_bytes(network: Network, precision: Precision, kind: Kind) -> tuple[int, int]:
    """Weights in the engine, and at the highest point of loading them.

    A convolution's are there twice, as they were and reordered; a linear layer's are copied when it is packed, one
    layer after the other.
    """
    if kind == "shortlist":
        (first, highest), (second, later) = (
            session_bytes(network, precision, k) for k in ("classifier", "goodness")
        )
        return first + second, max(highest, first + later)
    held = highest = 0
    for name, size in weight_sizes(network, precision).items():
        if name.startswith("head.") and kind == "goodness":
            continue
        shape = parameter_shapes(network)[name]
        held += size * (2 if len(shape) == 4 and name.startswith("unit") else 1)
        highest = max(highest, held + (size if len(shape) == 2 else 0))
    return held, highest


def goodness_bytes(network: Network, precision: Precision) -> int:
    """Activations of one image with one label at the highest point of a pass; each unit's y² waits to the end."""
    shapes, waiting, highest = unit_shapes(network), 0, _embedding(network)
    for index, alive in enumerate(_units(network, precision)):
        highest = max(highest, waiting + alive)
        waiting += math.prod(shapes[index][1]) * FLOAT
    return highest


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
    """Bytes that each unit has alive at its highest point, for one row of its input."""
    for index, (unit, (below, above)) in enumerate(zip(network.units, unit_shapes(network), strict=True)):
        alive = [(1 if unit.inputs[0].normalise == "none" else 2) * math.prod(below) * FLOAT]
        for _, op, shape, result in shaped_ops(unit, unit_name(index), below):
            alive.append((math.prod(shape) + math.prod(result)) * FLOAT + _lowered_bytes(op, shape, precision))
        top = index + 1 == len(network.units)
        alive.append((2 if top else 3) * math.prod(above) * FLOAT)  # y and y², one of them in two layouts
        yield max(alive)


def _lowered_bytes(op: Op, shape: Shape, precision: Precision) -> int:
    """The copy of a layer's input in the layer's own type; of int8 the rounded values beside it."""
    if precision == "fp32" or isinstance(op, Local) or not isinstance(op, Conv | Linear):
        return 0
    return math.prod(shape) * (2 if precision == "fp16" else 1 + FLOAT)


def inference_memory(
    network: Network,
    precision: Precision,
    batch: int,
    labels: int,
    kind: Kind | None = None,
    process: int = PROCESS,
    workspace: int = 0,
) -> Memory:
    """Memory of classifying `batch` images in one call, each with `labels` labels.

    By default in the mode that needs most.
    """
    if kind is None:
        needs = (inference_memory(network, precision, batch, labels, k, process, workspace) for k in KINDS)
        return max(needs, key=lambda memory: memory.total)
    held, loading = session_bytes(network, precision, kind)
    calls = 0
    if kind != "classifier":
        calls = batch * labels * goodness_bytes(network, precision)
    if kind != "goodness":
        calls = max(calls, batch * classifier_bytes(network, precision))
    return Memory(process, held, max(calls, loading - held), workspace=workspace)


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


def update_memory(
    network: Network,
    micro_batch: int,
    batch: int = STEP,
    images: int = 1,
    labels: int = 1,
    negatives: int = 1,
    moments: int = 2,
    process: int = PROCESS + LEARNING,
    workspace: int = 0,
) -> Memory:
    """Memory of one layer-local update in steps of `batch` images, `micro_batch` of them in one call of a graph: of
    the unit that needs most, and never of two; or of judging it, in calls of `images` × `labels`.

    A unit's inputs and outputs are there for the whole step, everything between for one call, its gradient as that
    of the call and as the sum of those before; of the classifier, after the units, its features. `moments` arrays
    as large as what is learned are kept (Adam: 2). The weights are there as arrays that change, and in the engine:
    the shipped ones, by which an update is judged, and the classifier before and after. All is fp32.
    """
    rows, at_once = (1 + negatives) * batch, (1 + negatives) * min(micro_batch, batch)
    shapes, learned = parameter_shapes(network), learned_bytes(network)
    head, (classifier, _) = _parameter_bytes(shapes, "head."), session_bytes(network, "fp32", "classifier")
    weights = weights_bytes(network, "fp32") + session_bytes(network, "fp32", "shortlist")[0]
    needs = []
    for index, (unit, (below, above)) in enumerate(zip(network.units, unit_shapes(network), strict=True)):
        activations = rows * (math.prod(below) + math.prod(above)) * FLOAT
        gradient = 0
        if unit.trained:
            activations += at_once * gradient_bytes(network, index)
            gradient = 2 * _parameter_bytes(shapes, f"{unit_name(index)}.")
        needs.append((weights, activations, gradient, moments * (learned - head)))
    features = batch * head_features(network) * FLOAT
    features += min(micro_batch, batch) * classifier_bytes(network, "fp32")
    judged = inference_memory(network, "fp32", images, labels).activations
    needs.append((weights + classifier, features, 2 * head, moments * head))
    needs.append((weights + classifier, judged, 0, 0))
    return Memory(process, *max(needs, key=sum), workspace)


def halvings(largest: int) -> list[int]:
    """largest, half of it, …, 1."""
    return [largest >> shift for shift in range(largest.bit_length())]


class Room(Struct, frozen=True):
    """What there is for a process: bytes, the largest calls that are wanted, what is taken before any network."""

    memory: int
    batch: int = BATCH
    labels: int = 1 << 16
    process: int = PROCESS
    workspace: int = 0


UNLIMITED = Room(1 << 62)


def room_on(profile: Profile) -> Room:
    """What a device offers."""
    gpu, limits = profile.gpu, profile.inference
    memory = (gpu.memory_mib if gpu and gpu.memory_mib else profile.memory.usable_mib) * MIB
    workspace = gpu.workspace_mib * MIB if gpu else 0
    return Room(memory, limits.max_batch, limits.max_labels, PROCESS + (CUDA if gpu else 0), workspace)


class Calls(Struct, frozen=True):
    """How much is computed at a time."""

    batch: int  # images in one call of an inference graph
    labels: int  # labels tried in one call
    micro_batch: int  # images in one call of a gradient graph


class Need(Struct, frozen=True):
    """What a use of a network needs, in the largest calls that fit; where none fits, in the smallest."""

    use: Use
    calls: Calls
    memory: Memory
    fits: bool


def need(network: Network, classes: int, use: Use, room: Room, precision: Precision = "fp32") -> Need:
    """The largest calls for a use that keep to the room, with a margin for what the figures are off by.

    All labels in one call come before many images in one, and both, in an update, before a large micro-batch:
    judging it takes calls of a mode, too.
    """

    def memory(calls: Calls) -> Memory:
        sizes, rest = (calls.batch, calls.labels), (room.process, room.workspace)
        if use != "update":
            return inference_memory(network, precision, *sizes, use, *rest)
        return update_memory(
            network, calls.micro_batch, STEP, *sizes, process=room.process + LEARNING, workspace=room.workspace
        )

    tried = [
        Calls(batch, labels, 1)
        for labels in halvings(1 if use == "classifier" else min(classes, room.labels))
        for batch in halvings(room.batch)
    ]
    available = int(room.memory / MARGIN)
    calls = next((one for one in tried if memory(one).total <= available), tried[-1])
    if use == "update":
        tried = [Calls(calls.batch, calls.labels, micro) for micro in halvings(min(MICRO_BATCH, room.batch))]
        calls = next((one for one in tried if memory(one).total <= available), tried[-1])
    needed = memory(calls)
    return Need(use, calls, needed, needed.total <= available)


def choose(network: Network, classes: int, use: Use, room: Room, precision: Precision = "fp32") -> Calls:
    """The calls of `need`. Raises `BackendError` with the numbers where not even one image with one label fits."""
    found = need(network, classes, use, room, precision)
    if not found.fits:
        enough, given = _mib(math.ceil(found.memory.total * MARGIN)), _mib(room.memory)
        available = int(room.memory / MARGIN)
        raise BackendError(f"{use} in {given} MiB: {_short(found.memory, available)}; allow {enough} MiB")
    return found.calls


def plan(network: Network, classes: int, name: str, profile: Profile, precision: Precision, bundle: int) -> Verdict:
    """The largest calls of a network that fit a device; where none fits, the smallest, with what they need.

    All labels in one call come before many images in one. `bundle`: bytes that the bundle has already.
    """
    room = room_on(profile)
    engines = [provider for provider in profile.inference.providers if not provider.startswith("onnxruntime")]

    def verdict(batch: int, labels: int) -> Verdict:
        rest = {"workspace": room.workspace}
        return Verdict(
            name,
            precision,
            batch,
            labels,
            inference_memory(network, precision, batch, labels, None, room.process, **rest),
            update_memory(network, batch, STEP, batch, labels, process=room.process + LEARNING, **rest),
            room.memory,
            sum(flash_bytes(network, precision, {"bundle": bundle}).values()),
            profile.storage.usable_mib * MIB,
            (*engines, "onnx"),
        )

    tried = [
        verdict(batch, labels) for labels in halvings(min(classes, room.labels)) for batch in halvings(room.batch)
    ]
    return next((one for one in tried if one.fits), tried[-1])


def flash_bytes(network: Network, precision: Precision, files: Mapping[str, int]) -> dict[str, int]:
    """What is on flash, by what it is: a bundle of these files, with what a precision still adds, and what learning
    keeps.
    """
    added = 0
    if in_folder("goodness.onnx", precision) not in files:
        added = GRAPHS + (0 if precision == "fp32" else weights_bytes(network, precision))
    learned = VERSIONS * learned_bytes(network)
    return {"bundle": sum(files.values()) + added, f"{VERSIONS} learned versions": learned, "examples": REPLAY}


def require_any(needs: Sequence[Need], memory: int) -> None:
    """Raise `BackendError` with the numbers unless one of the uses fits."""
    if not any(found.fits for found in needs):
        least = min(needs, key=lambda found: found.memory.total)
        raise BackendError(f"nothing fits: {least.use} {_short(least.memory, memory)}")


def require_fit(verdict: Verdict, others: list[Verdict]) -> None:
    """Raise `BackendError` with the numbers unless the network fits; `others`: verdicts in other precisions."""
    if verdict.fits:
        return
    short = []
    if verdict.inference.total > verdict.memory:
        short.append(f"one image with one label {_short(verdict.inference, verdict.memory)}")
    if verdict.update.total > verdict.memory:
        short.append(f"an update from one pair at a time {_short(verdict.update, verdict.memory)}")
    flash = _mib(verdict.flash_needed)
    if verdict.flash_needed > verdict.flash:
        short.append(f"bundle and {VERSIONS} learned versions need {flash} of {_mib(verdict.flash)} MiB of flash")
    fitting = [other.precision for other in others if other.fits]
    needed = _mib(max(verdict.inference.total, verdict.update.total))
    remedy = f"a device with {needed} MiB for programs and {flash} MiB of flash, or a narrower network, would fit"
    if fitting:
        remedy = f"--precision {fitting[0]} would fit"
    raise BackendError(f"{verdict.device}, {verdict.precision}: does not fit: {'; '.join(short)}; {remedy}")


def _short(memory: Memory, available: int) -> str:
    figures = {name: getattr(memory, name) for name in memory.__struct_fields__}
    listed = ", ".join(f"{name} {_mib(value)}" for name, value in figures.items() if value)
    return f"needs {_mib(memory.total)} MiB ({listed}) of {_mib(available)} MiB"


def _mib(size: int) -> str:
    return f"{math.ceil(size / MIB):,}"
