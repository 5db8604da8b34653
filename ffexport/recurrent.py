"""Recurrent networks as graphs: one step of a unit, and the goodness of every pair with the steps unrolled."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import onnx
import spox.opset.ai.onnx.v18 as op
from spox import Tensor, Var, argument

from ffruntime.core.architecture import (
    Input,
    Network,
    Shape,
    Source,
    constant_inputs,
    source_shape,
    summed_shape,
    unit_name,
    unit_shapes,
)

from .operations import (
    FP32,
    Types,
    Weights,
    activations,
    apply_ops,
    build,
    constant,
    mean_square,
    normalise_divisive,
    weight_inputs,
)

Spread: TypeAlias = Callable[[Var, Shape], Var]  # rows of images, or of labels -> rows of all their pairs


def one_input(network: Network, index: int, inputs: Input, weights: Weights, x: Var) -> Var:
    """What one input of the unit at `index` adds to the unit's sum, from the activity there: float32."""
    path, shape = f"{unit_name(index)}.{inputs.source}", source_shape(network, index, inputs.source)
    x = normalise_divisive(x, shape) if inputs.normalise == "divisive" else x
    return apply_ops(inputs, path, weights, x, shape)


def react(network: Network, index: int, weights: Weights, parts: Sequence[Var]) -> Var:
    """What a unit makes of the sum of what its inputs add."""
    unit, (below, _) = network.units[index], unit_shapes(network)[index]
    shape = summed_shape(unit, index, below)
    total = functools.reduce(op.add, [op.reshape(part, constant([-1, *shape])) for part in parts])
    return apply_ops(unit, unit_name(index), weights, total, shape)


def damped(network: Network, old: Var, new: Var) -> Var:
    """A unit's activity after a step, from the one before and what its inputs make of it."""
    assert network.steps
    keep = network.steps.damping
    return op.add(op.mul(old, constant(keep)), op.mul(new, constant(1 - keep)))


def settle(
    network: Network, weights: Weights, x: Var, patterns: Var, of_image: Spread, of_label: Spread
) -> list[Var]:
    """Goodness of every unit for every pair, of images (N, …) and labels' patterns (L, Q): each (N·L,).

    What does not change from step to step is computed once: the pass from below for an image, what the image adds
    to the first unit, and a label to the last.
    """
    assert network.steps
    (first, last), shapes = network.steps.score, unit_shapes(network)
    activities = [
        of_image(y, shape) for y, (_, shape) in zip(activations(network, weights, x), shapes, strict=True)
    ]
    given = {}
    for (index, inputs), (value, spread) in zip(
        constant_inputs(network), ((x, of_image), (patterns, of_label)), strict=True
    ):
        made = one_input(network, index, inputs, weights, value)
        shape = summed_shape(network.units[index], index, shapes[index][0])
        given[index, inputs.source] = spread(op.reshape(made, constant([-1, *shape])), shape)
    offset: dict[Source, int] = {"below": -1, "self": 0, "above": 1}
    counted: list[list[Var]] = [[] for _ in network.units]
    for step in range(1, last + 1):
        new = []
        for index, unit in enumerate(network.units):
            parts = [
                given[index, inputs.source]
                if (index, inputs.source) in given
                else one_input(network, index, inputs, weights, activities[index + offset[inputs.source]])
                for inputs in unit.inputs
            ]
            new.append(damped(network, activities[index], react(network, index, weights, parts)))
        activities = new
        if step >= first:
            for goodness, y, (_, shape) in zip(counted, activities, shapes, strict=True):
                goodness.append(mean_square(y, shape))
    return [op.div(functools.reduce(op.add, goodness), constant(float(1 + last - first))) for goodness in counted]


def step_graph(network: Network, index: int, types: Types = FP32) -> onnx.ModelProto:
    """`below`, `above` where the unit looks there, and `self` -> `activation`, `goodness`, `start`.

    Inputs are activities of a step ago, not normalised; `below` unit 1 is the standardised image, and `above` the
    topmost the label's pattern. `start` is the activity before the first step, of `below` alone.
    """
    weights, unit = weight_inputs(network, types), network.units[index]
    sources: list[Source] = ["self", *(inputs.source for inputs in unit.inputs if inputs.source != "self")]
    given = {
        source: argument(Tensor(np.float32, ("N", *source_shape(network, index, source)))) for source in sources
    }
    parts = [one_input(network, index, inputs, weights, given[inputs.source]) for inputs in unit.inputs]
    start = react(network, index, weights, parts[:1])
    y = damped(network, given["self"], react(network, index, weights, parts))
    outputs = {"activation": y, "goodness": mean_square(y, unit_shapes(network)[index][1]), "start": start}
    named: dict[str, Var] = {str(source): value for source, value in given.items()}
    return build(named, weights, outputs, f"ffedge recurrent unit{index + 1}")
