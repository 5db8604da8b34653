"""Multiply-accumulates of a pass through a network, counted from its description."""

from __future__ import annotations

import math
from itertools import accumulate

from .architecture import Conv, Linear, Network, Source, class_goodness, constant_inputs, scored_units
from .layers import Layer, layers, readout_layer, unit_layers


def macs(layer: Layer) -> int:
    """Multiply-accumulates of a layer on one input; biases are not counted."""
    if isinstance(layer.op, Conv):  # a locally connected one, too
        return math.prod(layer.after) * layer.before[0] * layer.op.kernel**2
    if isinstance(layer.op, Linear):
        return layer.op.out * math.prod(layer.before)
    return 0


def layer_macs(network: Network) -> list[tuple[int, ...]]:
    """Of every unit, the multiply-accumulates of each layer that has weights, for one image and one label."""
    return [
        tuple(count for layer in unit_layers(network, index) if (count := macs(layer)))
        for index in range(len(network.units))
    ]


def constant_macs(network: Network) -> tuple[int, int]:
    """Multiply-accumulates of what every step of a recurrent network adds and none changes: the image's part of the
    first unit's input, and the label's of the last one's. Without steps there is none."""
    if not network.steps:
        return 0, 0

    def of_input(index: int, source: Source) -> int:
        return sum(macs(layer) for layer in unit_layers(network, index) if layer.source == source)

    image, label = (of_input(index, inputs.source) for index, inputs in constant_inputs(network))
    return image, label


def unit_macs(network: Network) -> list[int]:
    """Multiply-accumulates of every unit for the goodness of one image and one label, or of every class at once:
    with those of its readout.

    In a recurrent network: in every step up to the last that counts, and once of what no step changes.
    """
    steps, (image, label) = network.steps.score[1] if network.steps else 1, constant_macs(network)
    units = [steps * sum(layers) + readout_macs(network, k) for k, layers in enumerate(layer_macs(network))]
    units[0] -= (steps - 1) * image
    units[-1] -= (steps - 1) * label
    return units


def readout_macs(network: Network, index: int) -> int:
    """Multiply-accumulates of the readout of the unit at `index`, all its rows; 0 where it has none."""
    layer = readout_layer(network, index)
    return macs(layer) if layer else 0


def exit_shares(network: Network) -> list[float]:
    """Of class goodness: after each scored unit, the share of a pass's multiply-accumulates that were done."""
    done = list(accumulate(unit_macs(network)))
    return [done[index] / done[-1] for index in scored_units(network)]


def goodness_macs(network: Network, labels: int) -> int:
    """Multiply-accumulates of the goodness of one image with so many labels, each with one pass; with class
    goodness one pass answers for all.

    A recurrent network has one pass from below for all of them, and the image's part once; the labels' parts, which
    all images share, are not counted.
    """
    if class_goodness(network):
        return sum(unit_macs(network))
    image, label = constant_macs(network)
    once = image + pass_macs(network) if network.steps else 0
    return once + labels * (sum(unit_macs(network)) - image - label)


def pass_macs(network: Network) -> int:
    """Multiply-accumulates of one pass from below, which the classifier or every class's goodness needs, for one
    image."""
    if not network.steps:
        return sum(unit_macs(network))
    return sum(macs(layer) for layer in layers(network) if layer.unit is not None and layer.from_below)


def head_macs(network: Network) -> int:
    """Multiply-accumulates of the linear classifier for one image: all its rows, the spare ones included."""
    return macs(layers(network)[-1])
