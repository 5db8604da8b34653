"""The layers and tensors of a network: every name, shape and role, worked out from its description.

A tensor's name is one contract: the same in safetensors, in ONNX initializers, in an engine's refit and in what a
device has learned. No reader takes a name apart; what it needs to know stands in `Layer` and `Tensor`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Literal, TypeAlias, TypeVar

from msgspec import Struct

from .architecture import (
    Conv,
    Linear,
    Local,
    Network,
    Op,
    Shape,
    Source,
    class_goodness,
    pattern_shape,
    readout_cells,
    scored_units,
    shaped_ops,
    source_shape,
    summed_shape,
    unit_name,
    unit_shapes,
)

HEAD = "head"  # the linear classifier: the layer after all units
KNOWN = "labels.known"
TOTAL = "total.weights"

# What a tensor is for. A layer's `weight` and `bias` are what a gradient is taken with respect to; `mean` and
# `variance` are normalisation statistics, which are frozen outside training. Of labels in the input there are
# patterns, the neutral one, and the share of each pixel that placement `add` keeps; of class goodness, `known`, 1
# for rows that are classes' and 0 for spare ones, and the weight of every unit in the `total`.
Role: TypeAlias = Literal["patterns", "neutral", "keep", "known", "total", "mean", "variance", "weight", "bias"]


class Layer(Struct, frozen=True):
    """An operation where it stands: of a unit, one of its inputs or its readout, or the linear classifier."""

    name: str  # `unit2.conv1`; of an input's operation `unit2.self.linear1`; `unit2.readout`; `head`
    op: Op
    before: Shape  # what it receives, without the batch
    after: Shape  # what it makes of that
    unit: int | None  # index of its unit; None: the linear classifier
    source: Source | None = None  # the input that it belongs to; None: the unit's own operations, or the head
    readout: bool = False  # whether it is the unit's readout, which takes no part in what the next unit receives

    @property
    def from_below(self) -> bool:
        """Whether it takes part in the pass from below, which needs no other input."""
        return self.source in (None, "below")

    @property
    def quantizable(self) -> bool:
        """Whether its weight has a form in fp16 and int8: a locally connected one stays in fp32."""
        return isinstance(self.op, Conv | Linear) and not isinstance(self.op, Local)


class Tensor(Struct, frozen=True):
    """One entry of `weights.safetensors`, float32."""

    name: str
    shape: Shape
    role: Role
    unit: int | None = None  # index of the unit that it belongs to; None: labels, or the linear classifier
    layer: Layer | None = None  # whose weight or bias it is

    @property
    def learnable(self) -> bool:
        """Whether a gradient is taken with respect to it."""
        return self.role in ("weight", "bias")

    @property
    def gradient(self) -> str:
        """Name of its gradient: an output of a gradient graph, and a golden vector."""
        return f"gradient.{self.name}"

    @property
    def of_head(self) -> bool:
        """Whether it is one of the linear classifier's."""
        return self.layer is not None and self.layer.unit is None

    @property
    def fan_in(self) -> int:
        """Of a weight: how many numbers each of its outputs is a sum over."""
        axes = 3 if self.layer and isinstance(self.layer.op, Conv) else 1  # (C, k, k) at a position, or (F,)
        return math.prod(self.shape[-axes:])


@functools.lru_cache(maxsize=16)
def layers(network: Network) -> tuple[Layer, ...]:
    """Every layer from the input up, the linear classifier last."""
    found: list[Layer] = []
    for index, unit in enumerate(network.units):
        prefix = unit_name(index)
        for inputs in unit.inputs:
            path, given = f"{prefix}.{inputs.source}", source_shape(network, index, inputs.source)
            for name, op, before, after in shaped_ops(inputs, path, given):
                found.append(Layer(f"{path}.{name}", op, before, after, index, inputs.source))
        summed = summed_shape(unit, index, unit_shapes(network)[index][0])
        for name, op, before, after in shaped_ops(unit, prefix, summed):
            found.append(Layer(f"{prefix}.{name}", op, before, after, index))
        if unit.readout:
            features = math.prod(readout_cells(unit.readout, found[-1].after))
            name, rows = f"{prefix}.readout", network.label.patterns
            found.append(Layer(name, Linear(rows), (features,), (rows,), index, readout=True))
    if class_goodness(network):
        return tuple(found)
    rows = network.label.patterns
    return (*found, Layer(HEAD, Linear(rows), (head_features(network),), (rows,), None))


def unit_layers(network: Network, index: int) -> list[Layer]:
    """The layers of a unit: those of its inputs, then its own, without its readout."""
    return [layer for layer in _layers_by_unit(network)[index] if not layer.readout]


def readout_layer(network: Network, index: int) -> Layer | None:
    """The layer from a unit's averaged, normalised activation to the goodness of every class; None: it has none."""
    return next((layer for layer in _layers_by_unit(network)[index] if layer.readout), None)


def head_features(network: Network) -> int:
    """Number of features the linear classifier reads: all neurons of all scored units. With class goodness there
    is no classifier."""
    shapes = unit_shapes(network)
    return sum(math.prod(shapes[index][1]) for index in scored_units(network))


def statistics_features(network: Network) -> int:
    """Number of features that class statistics are made of: what the classifier reads or, with class goodness, what
    the readouts of the scored units read."""
    if not class_goodness(network):
        return head_features(network)
    read = (readout_layer(network, index) for index in scored_units(network))
    return sum(math.prod(layer.before) for layer in read if layer)


@functools.lru_cache(maxsize=16)
def tensors(network: Network) -> tuple[Tensor, ...]:
    """Everything in `weights.safetensors`, in the order in which a network is initialised."""
    label, of_classes = network.label, class_goodness(network)
    pattern = pattern_shape(network)
    if of_classes:
        found = [Tensor(KNOWN, (label.patterns,), "known"), Tensor(TOTAL, (len(network.units),), "total")]
    else:
        found = [
            Tensor("labels.patterns", (label.patterns, *pattern), "patterns"),
            Tensor("labels.neutral", pattern, "neutral"),
        ]
    if label.placement in ("add", "morphology"):
        found.append(Tensor("labels.keep", (label.channels, *network.image.shape[1:]), "keep"))
    for index, (unit, (below, _)) in enumerate(zip(network.units, unit_shapes(network), strict=True)):
        if unit.inputs[0].normalise == "batch":
            path, channels = f"{unit_name(index)}.below", (below[0],)
            found.append(Tensor(f"{path}.mean", channels, "mean", index))
            found.append(Tensor(f"{path}.var", channels, "variance", index))
        for layer in _layers_by_unit(network)[index]:
            found += _parameters(layer)
    return (*found, *(() if of_classes else _parameters(layers(network)[-1])))


def _parameters(layer: Layer) -> list[Tensor]:
    """Weight and bias of a layer, where it has them."""
    op = layer.op
    if not isinstance(op, Conv | Linear):
        return []
    positions = layer.after[1:] if isinstance(op, Local) else ()
    if isinstance(op, Conv):
        weight = (*positions, op.out, layer.before[0], op.kernel, op.kernel)
    else:
        weight = (op.out, math.prod(layer.before))
    found = [Tensor(f"{layer.name}.weight", weight, "weight", layer.unit, layer)]
    if op.bias:
        found.append(Tensor(f"{layer.name}.bias", (op.out, *positions), "bias", layer.unit, layer))
    return found


def tensor_shapes(network: Network) -> dict[str, Shape]:
    """Name and shape of everything in `weights.safetensors`."""
    return {tensor.name: tensor.shape for tensor in tensors(network)}


def unit_tensors(network: Network, index: int) -> list[Tensor]:
    """All tensors of a unit."""
    return _tensors_by_unit(network)[index]


# Looked for once: of a thousand units, each is asked about many times.


Entry = TypeVar("Entry", Layer, Tensor)


@functools.lru_cache(maxsize=16)
def _layers_by_unit(network: Network) -> tuple[list[Layer], ...]:
    return _by_unit(network, layers(network))


@functools.lru_cache(maxsize=16)
def _tensors_by_unit(network: Network) -> tuple[list[Tensor], ...]:
    return _by_unit(network, tensors(network))


def _by_unit(network: Network, entries: Iterable[Entry]) -> tuple[list[Entry], ...]:
    found: tuple[list[Entry], ...] = tuple([] for _ in network.units)
    for entry in entries:
        if entry.unit is not None:
            found[entry.unit].append(entry)
    return found


def unit_parameters(network: Network, index: int) -> list[Tensor]:
    """What a unit's gradient is taken with respect to: its weights and biases, those of its readout included."""
    return [tensor for tensor in unit_tensors(network, index) if tensor.learnable]


def readout_parameters(network: Network, index: int) -> list[Tensor]:
    """Weight and bias of a unit's readout; none where it has none."""
    return [tensor for tensor in unit_parameters(network, index) if of_readout(tensor)]


def of_readout(tensor: Tensor) -> bool:
    """Whether it is a readout's weight or bias."""
    return tensor.layer is not None and tensor.layer.readout


def head_parameters(network: Network) -> list[Tensor]:
    """Weight and bias of the linear classifier; none with class goodness."""
    return [tensor for tensor in tensors(network) if tensor.of_head]


def learned_tensors(network: Network, units: Iterable[int]) -> list[Tensor]:
    """What learning changes: parameters of those units, and of the linear classifier; of class goodness, which rows
    are known, too."""
    known = [tensor for tensor in tensors(network) if tensor.role == "known"]
    own = (tensor for index in units for tensor in unit_parameters(network, index))
    return [*known, *own, *head_parameters(network)]


def feature_tensors(network: Network) -> list[str]:
    """Names of all that takes part in a pass without a label up to the last scored unit, in their order: what a
    readout or the classifier makes of the features does not."""
    last = scored_units(network)[-1]
    return [
        t.name
        for t in tensors(network)
        if t.role not in ("patterns", "known", "total")
        and not t.of_head
        and (t.unit is None or t.unit <= last)
        and (t.layer is None or (t.layer.from_below and not t.layer.readout))
    ]
