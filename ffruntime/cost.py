"""What a pass through a network costs, counted from its description: multiply-accumulates, and nothing measured."""

from __future__ import annotations

import math

from .architecture import (
    Conv,
    Linear,
    Network,
    Op,
    Shape,
    head_features,
    shaped_ops,
    unit_name,
    unit_shapes,
)


def op_macs(op: Op, below: Shape, above: Shape) -> int:
    """Multiply-accumulates of one operation on one input, (C, H, W) or (N,) -> `above`; biases are not counted."""
    if isinstance(op, Conv):  # a locally connected one, too
        return math.prod(above) * below[0] * op.kernel**2
    if isinstance(op, Linear):
        return op.out * math.prod(below)
    return 0


def layer_macs(network: Network) -> list[tuple[int, ...]]:
    """Of every unit, the multiply-accumulates of each layer that has weights, for one image and one label."""
    units = []
    for index, (unit, (shape, _)) in enumerate(zip(network.units, unit_shapes(network), strict=True)):
        layers = [op_macs(op, below, above) for _, op, below, above in shaped_ops(unit, unit_name(index), shape)]
        units.append(tuple(macs for macs in layers if macs))
    return units


def unit_macs(network: Network) -> list[int]:
    """Multiply-accumulates of every unit for one image and one label."""
    return [sum(layers) for layers in layer_macs(network)]


def head_macs(network: Network) -> int:
    """Multiply-accumulates of the linear classifier for one image: all its rows, the spare ones included."""
    return network.label.patterns * head_features(network)
