"""The architecture description in torch: pure functions on a dictionary of tensors.

What they are made of, operations, normalisation and goodness, stands in `functional.py`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ffruntime.core import layers
from ffruntime.core.architecture import (
    EPS_DIVISIVE,
    Input,
    Network,
    Source,
    class_goodness,
    constant_inputs,
    named_ops,
    scored_units,
    sign,
    unit_name,
)

from .functional import (
    Tensors,
    apply_op,
    averaged,
    channels_last,
    mean_square,
    morphology,
    normalise_batch,
    normalise_divisive,
    normalise_groups,
)

NOTHING: Mapping[str, Tensor] = {}


def initialise(network: Network, labels: Tensors, generator: torch.Generator) -> Tensors:
    """An untrained network on the CPU, with these tensors of its labels: normal weights of standard deviation
    √(2 / fan-in), of a unit with n inputs √(2 / (n · fan-in)), biases, readouts and the classifier zero, batch
    statistics those of a standardised input. Every scored unit weighs 1 in the total of class goodness."""
    tensors: Tensors = {}
    for described in layers.tensors(network):
        name, shape, layer = described.name, described.shape, described.layer
        if name in labels:
            tensors[name] = labels[name]
        elif described.role == "total":
            tensors[name] = torch.tensor([float(unit.scored) for unit in network.units])
        elif described.role == "weight" and described.unit is not None and layer and not layer.readout:
            inputs = len(network.units[described.unit].inputs)
            deviation = math.sqrt(2 / (inputs * described.fan_in))
            tensors[name] = deviation * torch.randn(shape, generator=generator)
        else:
            tensors[name] = torch.ones(shape) if described.role == "variance" else torch.zeros(shape)
    return tensors


@functools.lru_cache(maxsize=16)  # asked for in every step
def parameter_names(network: Network) -> dict[str, tuple[str, ...]]:
    """Names of the weights and biases of every part of a network: of each unit, by its name, and of the `head`."""
    units = {unit_name(index): layers.unit_parameters(network, index) for index in range(len(network.units))}
    parts = {**units, layers.HEAD: layers.head_parameters(network)}
    return {part: tuple(described.name for described in found) for part, found in parts.items()}


@functools.lru_cache(maxsize=16)
def _statistics(network: Network) -> dict[int, list[str]]:
    """Names of the running mean and variance of every unit that has them, by its index."""
    return _by_unit(t for t in layers.tensors(network) if t.role in ("mean", "variance"))


@functools.lru_cache(maxsize=16)
def readout_names(network: Network) -> dict[int, list[str]]:
    """Names of the readout's weight and bias of every unit that has one, by its index."""
    return _by_unit(t for t in layers.tensors(network) if t.layer and t.layer.readout)


def _by_unit(described: Iterable[layers.Tensor]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for tensor in described:
        assert tensor.unit is not None
        found.setdefault(tensor.unit, []).append(tensor.name)
    return found


def parameters(network: Network, part: str, tensors: Tensors) -> Tensors:
    """Those of the tensors that are weights and biases of a part: of a unit, by its name, or of the `head`."""
    return {name: tensors[name] for name in parameter_names(network)[part] if name in tensors}


def parameter_count(network: Network) -> int:
    """Number of trained figures: weights and biases of the units and of the classifier."""
    return sum(math.prod(described.shape) for described in layers.tensors(network) if described.learnable)


def input_name(index: int, source: Source) -> str:
    """`unit2.above`: the input of the unit at `index` from that source."""
    return f"{unit_name(index)}.{source}"


def input_parameters(network: Network, index: int, source: Source) -> list[str]:
    """Names of the weights and biases of a unit's input from that source."""
    own = layers.unit_parameters(network, index)
    return [described.name for described in own if described.layer and described.layer.source == source]


def to_images(pixels: Tensor, network: Network, dtype: torch.dtype) -> Tensor:
    """uint8 pixels (N, C, H, W) -> standardised images of `dtype`."""
    x = (pixels.float() / 255 - network.image.mean) / network.image.std
    return x.to(dtype)


def embed(network: Network, tensors: Tensors, images: Tensor, patterns: Tensor) -> Tensor:
    """Standardised images (N, C, H, W) and patterns (N or 1, *pattern_shape) -> the first unit's input."""
    if network.label.placement == "top":
        x = images
    elif network.label.placement == "channel":
        x = torch.cat([images, patterns.to(images).expand(len(images), -1, -1, -1)], dim=1)  # (N, C + P, H, W)
    elif network.label.placement == "morphology":
        changed = morphology(images, patterns.to(images))
        x = changed + tensors["labels.keep"].to(images) * (images - changed)
    else:
        x = tensors["labels.keep"].to(images) * images + patterns.to(images)
    if network.label.normalise == "range":
        low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        x = (x - low) / (high - low + EPS_DIVISIVE)
    return channels_last(x)


def repeated(x: Tensor, copies: int) -> Tensor:
    """(B, …) -> (copies · B, …), copy after copy."""
    return x.repeat(copies, *[1] * (x.ndim - 1))


def embed_copies(network: Network, tensors: Tensors, images: Tensor, labels: Tensor) -> Tensor:
    """Every image with several labels: images (B, …), labels (R, B) -> the first unit's input (R · B, …)."""
    copies = repeated(images, len(labels))
    return embed(network, tensors, copies, tensors["labels.patterns"][labels.flatten()])


def normalise(network: Network, index: int, tensors: Tensors, x: Tensor, training: bool) -> Tensor:
    """A unit's input as it asks for it. In training, batch statistics are taken and remembered."""
    inputs = network.units[index].inputs[0]
    if inputs.normalise == "none":
        return x
    if inputs.normalise == "divisive":
        return normalise_divisive(x)
    if inputs.normalise == "batch":
        mean, variance = _statistics(network)[index]
        return normalise_batch(x, tensors[mean], tensors[variance], training)
    groups = {"layer": 1, "instance": x.shape[1], "group": inputs.groups}
    return normalise_groups(x, groups[inputs.normalise])


def preactivation(
    network: Network,
    index: int,
    tensors: Tensors,
    received: Mapping[Source, Tensor],
    known: Mapping[str, Tensor] = NOTHING,
) -> Tensor:
    """What a unit's last ReLU receives, from its normalised inputs by source or what those are `known` to add.

    An input of which there is neither takes no part.
    """
    unit, parts = network.units[index], []
    for inputs in unit.inputs:
        path = input_name(index, inputs.source)
        if path in known:
            parts.append(known[path])
        elif inputs.source in received:
            parts.append(apply_ops(inputs, path, tensors, received[inputs.source]))
    x = functools.reduce(lambda x, part: x + part.reshape(x.shape), parts)
    *ops, _ = named_ops(unit)
    given = x
    for short, op in ops:
        x = apply_op(op, f"{unit_name(index)}.{short}", tensors, x)
    return x + given if unit.shortcut else x


def apply_ops(inputs: Input, path: str, tensors: Tensors, x: Tensor) -> Tensor:
    """The operations of an input of that name."""
    for short, op in named_ops(inputs):
        x = apply_op(op, f"{path}.{short}", tensors, x)
    return x


def activation(
    network: Network,
    index: int,
    tensors: Tensors,
    received: Mapping[Source, Tensor],
    known: Mapping[str, Tensor] = NOTHING,
) -> Tensor:
    """A unit's activation from its normalised inputs, as `preactivation`."""
    *_, (short, last) = named_ops(network.units[index])
    x = preactivation(network, index, tensors, received, known)
    return apply_op(last, f"{unit_name(index)}.{short}", tensors, x)


def total_goodness(network: Network, tensors: Tensors, goodness: Tensor) -> Tensor:
    """Goodness per unit (…, U) -> total (…) over the scored units."""
    scored = goodness[..., scored_units(network)]
    if class_goodness(network):
        return scored @ tensors[layers.TOTAL][scored_units(network)].to(scored.dtype)
    return sign(network) * (scored.clamp_min(1e-30).log() if network.score == "log_sum" else scored).sum(-1)


def activations(network: Network, tensors: Tensors, x: Tensor) -> list[Tensor]:
    """Activation of every unit in one pass from below, from the embedded input, statistics frozen."""
    result = []
    for index in range(len(network.units)):
        x = normalise(network, index, tensors, x, training=False)
        x = activation(network, index, tensors, {"below": x})
        result.append(x)
    return result


def readout_goodness(network: Network, index: int, tensors: Tensors, y: Tensor) -> Tensor:
    """A unit's activation (N, …) -> its goodness of every class and every spare one (N, P), at least float32."""
    weight, bias = readout_names(network)[index]
    return F.linear(readout_features(network, index, y), tensors[weight], tensors[bias])


def prototype_offsets(network: Network, index: int, tensors: Tensors) -> Tensor:
    """By how much the goodness R · z + b of a unit's rows exceeds −½ ‖z − R‖² + ½ ‖z‖²: (P,)."""
    weight, bias = (tensors[name] for name in readout_names(network)[index])
    return bias + weight.square().sum(1) / 2


def readout_features(network: Network, index: int, y: Tensor) -> Tensor:
    """A unit's activation (N, …) as its readout takes it, averaged and normalised divisively: (N, F)."""
    readout = network.units[index].readout
    assert readout
    return normalise_divisive(averaged(readout, y))


def class_features(network: Network, tensors: Tensors, images: Tensor) -> Tensor:
    """Standardised images (N, …) -> what the readouts of the scored units read, one unit after the other, (N, F),
    by one pass with statistics frozen."""
    x, parts = images, []
    for index, unit in enumerate(network.units):
        x = channels_last(normalise(network, index, tensors, x, training=False))
        x = activation(network, index, tensors, {"below": x})
        if unit.scored and unit.readout:
            parts.append(readout_features(network, index, x))
    return torch.cat(parts, dim=1)


def goodness_of_classes(network: Network, tensors: Tensors, images: Tensor) -> Tensor:
    """Standardised images (N, …) -> goodness of every class and every spare one in every unit, (N, P, U), by one
    pass with statistics frozen; 0 in a unit without a readout."""
    x, columns = images, []
    for index, unit in enumerate(network.units):
        x = channels_last(normalise(network, index, tensors, x, training=False))
        x = activation(network, index, tensors, {"below": x})
        if unit.readout:
            columns.append(readout_goodness(network, index, tensors, x))
        else:
            columns.append(tensors[layers.KNOWN].new_zeros(len(x), network.label.patterns))
    return torch.stack(columns, dim=-1)


def forward(network: Network, tensors: Tensors, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Embedded input -> (goodness per unit (N, U), activations of the scored units), statistics frozen."""
    activities = activations(network, tensors, x)
    goodness = torch.stack([mean_square(y) for y in activities], dim=-1)
    return goodness, [activities[index] for index in scored_units(network)]


def features(scored: list[Tensor]) -> Tensor:
    """What the linear classifier reads: scored activations, each normalised divisively, flattened in C order."""
    return torch.cat([normalise_divisive(x).flatten(1) for x in scored], dim=1)


def neutral_features(network: Network, tensors: Tensors, images: Tensor) -> Tensor:
    """What the linear classifier reads of standardised images with the neutral label, (N, F)."""
    return features(forward(network, tensors, embed(network, tensors, images, tensors["labels.neutral"][None]))[1])


def classify_linear(network: Network, tensors: Tensors, images: Tensor) -> tuple[Tensor, Tensor]:
    """Standardised images, with the neutral label -> (the classifier's features, its logits in float32)."""
    x = neutral_features(network, tensors, images)
    return x, head_logits(tensors, x)


def head_logits(tensors: Tensors, x: Tensor) -> Tensor:
    """The linear classifier: features (N, F) -> logits (N, patterns), in float32 or better."""
    bias = tensors[f"{layers.HEAD}.bias"]
    return F.linear(x, tensors[f"{layers.HEAD}.weight"].to(x.dtype)).to(bias.dtype) + bias


def label_goodness(network: Network, tensors: Tensors, images: Tensor, labels: Tensor) -> Tensor:
    """Standardised images (N, …) × labels (L,) -> goodness of every unit for every pair, (N, L, U)."""
    if class_goodness(network):
        return goodness_of_classes(network, tensors, images)[:, labels]
    n, count = len(images), len(labels)
    patterns = tensors["labels.patterns"][labels]
    if network.steps:
        goodness = settle(network, tensors, images, patterns)
    else:
        patterns = repeated(patterns, n)  # (N·L, *pattern_shape)
        x = embed(network, tensors, images.repeat_interleave(count, dim=0), patterns)
        goodness, _ = forward(network, tensors, x)
    return goodness.view(n, count, -1)


def settle(network: Network, tensors: Tensors, images: Tensor, patterns: Tensor) -> Tensor:
    """A recurrent network, from standardised images (N, …) and labels at its top (L, Q): goodness (N·L, U)."""
    assert network.steps
    n, count, (first, last) = len(images), len(patterns), network.steps.score
    x = embed(network, tensors, images, patterns)
    activities = [y.repeat_interleave(count, 0) for y in activations(network, tensors, x)]
    (below, image), (above, label) = constants(network, tensors, x, patterns.to(x)).items()
    known = {below: image.repeat_interleave(count, 0), above: repeated(label, n)}
    counted = []
    for step in range(1, last + 1):
        units = enumerate(step_inputs(network, activities))
        new = [activation(network, index, tensors, received, known) for index, received in units]
        activities = [damped(network, old, y) for old, y in zip(activities, new, strict=True)]
        if step >= first:
            counted.append(torch.stack([mean_square(y) for y in activities], dim=-1))
    return torch.stack(counted).mean(0)


def constants(network: Network, tensors: Tensors, x: Tensor, patterns: Tensor) -> Tensors:
    """What a recurrent network's constant inputs add in every step, under their names: that from below the first
    unit, where the embedded image `x` is, and that from above the last, where the label's `patterns` are."""
    result = {}
    for (index, inputs), given in zip(constant_inputs(network), (x, patterns), strict=True):
        given = normalise_divisive(given) if inputs.normalise == "divisive" else given
        path = input_name(index, inputs.source)
        result[path] = apply_ops(inputs, path, tensors, given)
    return result


def step_inputs(network: Network, activities: list[Tensor]) -> list[dict[Source, Tensor]]:
    """What every unit receives in the next step from units, normalised: from their `activities` a step ago."""
    offset: dict[Source, int] = {"below": -1, "self": 0, "above": 1}
    normalised = [normalise_divisive(y) for y in activities]
    return [
        {
            one.source: (normalised if one.normalise == "divisive" else activities)[place]
            for one in unit.inputs
            if 0 <= (place := index + offset[one.source]) < len(activities)
        }
        for index, unit in enumerate(network.units)
    ]


def damped(network: Network, old: Tensor, new: Tensor) -> Tensor:
    """A unit's activity after a step, from the one before and what its inputs make of it."""
    assert network.steps
    return torch.lerp(new, old.detach(), network.steps.damping)
