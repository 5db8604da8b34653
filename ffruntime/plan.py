"""What a network needs on a device, computed from its description alone, and whether a device profile has it.

Figures are bytes unless their name says MiB. An estimate of the highest point: every tensor that is alive there,
with the temporaries of normalisation; what an engine saves by computing in place is not counted on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from msgspec import Struct

from .architecture import (
    Conv,
    Linear,
    Local,
    Network,
    Op,
    Shape,
    embedded_shape,
    head_features,
    parameter_shapes,
    pattern_shape,
    scored_units,
    shaped_ops,
    unit_name,
    unit_shapes,
)
from .errors import BackendError
from .precision import Precision
from .profile import Profile

MIB = 1 << 20
FLOAT = 4
PROCESS = 64 * MIB  # Python, numpy, Pillow and ONNX Runtime on a CPU before a model is loaded: measured, 55 MiB
CUDA = 512 * MIB  # an assumption: CUDA's context and libraries
VERSIONS = 3  # of learned weights that are kept on flash
GRAPHS = 256 << 10  # all graphs of a precision together, generously


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
    flash_needed: int  # bundle, this precision, and learned versions
    flash: int
    formats: tuple[str, ...]  # of graphs and engines that it runs: `onnx`, and an engine library's, best first

    @property
    def fits(self) -> bool:
        return max(self.inference.total, self.update.total) <= self.memory and self.flash_needed <= self.flash


def weights_bytes(network: Network, precision: Precision) -> int:
    """Size of a precision's weights, all layers lowered."""
    width = {"fp32": FLOAT, "fp16": 2, "int8": 1}[precision]
    total = 0
    for name, shape in parameter_shapes(network).items():
        lowered = name.endswith(".weight") and len(shape) != 6  # a local layer's has six axes and stays as it is
        total += math.prod(shape) * (width if lowered else FLOAT)
        total += shape[0] * FLOAT if lowered and precision == "int8" else 0
    return total


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


def pair_bytes(network: Network, precision: Precision) -> int:
    """Activations of one image with one label, at the highest point of a pass."""
    return max(_pass(network, precision))


def classifier_bytes(network: Network, precision: Precision) -> int:
    """Activations of one image in the classifier's pass: those of the scored units stay, and are normalised."""
    shapes = unit_shapes(network)
    kept = sum(math.prod(shapes[index][1]) for index in scored_units(network))
    return pair_bytes(network, precision) + (kept + 2 * head_features(network)) * FLOAT


def _pass(network: Network, precision: Precision) -> Iterator[int]:
    """Bytes alive in each step of a pass."""
    image, label = math.prod(network.image.shape), network.label
    pattern, embedded = math.prod(pattern_shape(network)), math.prod(embedded_shape(network))
    elements = (label.element + 1) * image if label.placement == "morphology" else 0
    yield (image + pattern + 2 * embedded + elements) * FLOAT
    for index, (unit, (below, above)) in enumerate(zip(network.units, unit_shapes(network), strict=True)):
        yield (1 if unit.inputs[0].normalise == "none" else 3) * math.prod(below) * FLOAT
        for _, op, shape, result in shaped_ops(unit, unit_name(index), below):
            yield (math.prod(shape) + math.prod(result)) * FLOAT + _lowered_bytes(op, shape, precision)
        yield 2 * math.prod(above) * FLOAT  # y and y²


def _lowered_bytes(op: Op, shape: Shape, precision: Precision) -> int:
    """The copy of a layer's input in the layer's own type; of int8 the rounded values beside it."""
    if precision == "fp32" or isinstance(op, Local) or not isinstance(op, Conv | Linear):
        return 0
    return math.prod(shape) * (2 if precision == "fp16" else 1 + FLOAT)


def inference_memory(
    network: Network, precision: Precision, batch: int, labels: int, process: int = PROCESS, workspace: int = 0
) -> Memory:
    """Memory of classifying `batch` images in one call, each with `labels` labels, in either inference mode."""
    pairs = batch * labels * pair_bytes(network, precision)
    activations = max(pairs, batch * classifier_bytes(network, precision))
    return Memory(process, weights_bytes(network, precision), activations, workspace=workspace)


def update_memory(
    network: Network, pairs: int, moments: int = 2, process: int = PROCESS, workspace: int = 0
) -> Memory:
    """Memory of one layer-local update from so many pairs of images: of the unit that needs most, and never of two.

    A unit's input, the activation after each layer and its derivative live twice over, for positive and negative
    data; `moments` arrays as large as what is learned are kept (Adam: 2). The network runs in fp32 meanwhile.
    """
    shapes = parameter_shapes(network)
    activations = gradients = 0
    for index, (unit, (below, _)) in enumerate(zip(network.units, unit_shapes(network), strict=True)):
        if not unit.trained:
            continue
        steps = shaped_ops(unit, unit_name(index), below)
        neurons = sum(math.prod(result) for _, op, _, result in steps if isinstance(op, Conv | Linear))
        activations = max(activations, 2 * pairs * (2 * math.prod(below) + 3 * neurons) * FLOAT)
        gradients = max(gradients, _parameter_bytes(shapes, f"{unit_name(index)}."))
    activations = max(activations, 2 * pairs * pair_bytes(network, "fp32"))  # the pass that leads there
    return Memory(
        process,
        weights_bytes(network, "fp32"),
        activations,
        max(gradients, _parameter_bytes(shapes, "head.")),
        moments * learned_bytes(network),
        workspace,
    )


def halvings(largest: int) -> list[int]:
    """largest, half of it, …, 1."""
    return [largest >> shift for shift in range(largest.bit_length())]


def plan(network: Network, classes: int, name: str, profile: Profile, precision: Precision, bundle: int) -> Verdict:
    """The largest calls of a network that fit a device; where none fits, the smallest, with what they need.

    All labels in one call come before many images in one. `bundle`: bytes that the bundle has already.
    """
    gpu, limits = profile.gpu, profile.inference
    memory = (gpu.memory_mib if gpu and gpu.memory_mib else profile.memory.usable_mib) * MIB
    process = PROCESS + (CUDA if gpu else 0)
    workspace = gpu.workspace_mib * MIB if gpu else 0
    engines = [provider for provider in limits.providers if not provider.startswith("onnxruntime")]

    def verdict(batch: int, labels: int) -> Verdict:
        return Verdict(
            name,
            precision,
            batch,
            labels,
            inference_memory(network, precision, batch, labels, process, workspace),
            update_memory(network, batch, process=process, workspace=workspace),
            memory,
            bundle
            + (0 if precision == "fp32" else weights_bytes(network, precision))
            + GRAPHS
            + VERSIONS * learned_bytes(network),
            profile.storage.usable_mib * MIB,
            (*engines, "onnx"),
        )

    tried = [
        verdict(batch, labels)
        for labels in halvings(min(classes, limits.max_labels))
        for batch in halvings(limits.max_batch)
    ]
    return next((one for one in tried if one.fits), tried[-1])


def require_fit(verdict: Verdict, others: list[Verdict]) -> None:
    """Raise `BackendError` with the numbers unless the network fits; `others`: verdicts in other precisions."""
    if verdict.fits:
        return
    short = []
    if verdict.inference.total > verdict.memory:
        short.append(f"one image with one label needs {_parts(verdict.inference)} of {_mib(verdict.memory)} MiB")
    if verdict.update.total > verdict.memory:
        short.append(f"an update from one pair needs {_parts(verdict.update)} of {_mib(verdict.memory)} MiB")
    flash = _mib(verdict.flash_needed)
    if verdict.flash_needed > verdict.flash:
        short.append(f"bundle and {VERSIONS} learned versions need {flash} of {_mib(verdict.flash)} MiB of flash")
    fitting = [other.precision for other in others if other.fits]
    needed = _mib(max(verdict.inference.total, verdict.update.total))
    remedy = f"a device with {needed} MiB for programs and {flash} MiB of flash, or a narrower network, would fit"
    if fitting:
        remedy = f"--precision {fitting[0]} would fit"
    raise BackendError(f"{verdict.device}, {verdict.precision}: does not fit: {'; '.join(short)}; {remedy}")


def _parts(memory: Memory) -> str:
    figures = {name: getattr(memory, name) for name in memory.__struct_fields__}
    listed = ", ".join(f"{name} {_mib(value)}" for name, value in figures.items() if value)
    return f"{_mib(memory.total)} MiB ({listed})"


def _mib(size: int) -> str:
    return f"{math.ceil(size / MIB):,}"
