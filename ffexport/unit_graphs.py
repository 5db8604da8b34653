"""A unit as graphs: its input normalised, its layers one after the other, and the gradients of its parameters.

A feed-forward unit's gradient ends at its normalised input, so nothing here has a gradient of a normalisation. What
of a unit's activation its goodness is, stands in `inference_graphs.py` and `class_graphs.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import spox.opset.ai.onnx.v18 as op
from spox import Var

from ffruntime.core.architecture import EPS_BATCH, EPS_DIVISIVE, Network, Shape, Source, unit_shapes
from ffruntime.core.layers import Layer, tensors, unit_layers, unit_parameters

from .layer_graphs import (
    apply_layer,
    apply_layers,
    constant,
    dtype_of,
    input_gradient,
    parameter_gradient,
    scalar,
    to_type,
)
from .onnx_files import Vars

# ---------------------------------------- normalised inputs ----------------------------------------


def standardise(network: Network, images: Var) -> Var:
    """Images in [0, 1] -> (x − mean) / std."""
    return op.div(op.sub(images, constant(network.image.mean)), constant(network.image.std))


def root_mean_square(x: Var, shape: Shape) -> Var:
    """√(mean(x²) + ε) of each sample: (N, *shape) -> (N, 1, …)."""
    mean = op.reduce_mean(op.mul(x, x), constant(list(range(1, len(shape) + 1))), keepdims=1)
    return op.sqrt(op.add(mean, scalar(EPS_DIVISIVE, x)))


def normalise_divisive(x: Var, shape: Shape) -> Var:
    """x / √(mean(x²) + ε) per sample (Hinton, section 2)."""
    return op.div(x, root_mean_square(x, shape))


def normalise_groups(x: Var, shape: Shape, groups: int) -> Var:
    """Each of `groups` equal groups of a sample's channels standardised by itself (Wu and He 2018)."""
    parts, axis = op.reshape(x, constant([-1, groups, shape[0] // groups, *shape[1:]])), range(2, 2 + len(shape))
    axes = constant([*axis])
    centred = op.sub(parts, op.reduce_mean(parts, axes, keepdims=1))
    variance = op.reduce_mean(op.mul(centred, centred), axes, keepdims=1)
    return op.reshape(op.div(centred, op.sqrt(op.add(variance, scalar(EPS_BATCH, x)))), constant([-1, *shape]))


def normalise(network: Network, index: int, values: Vars, x: Var) -> Var:
    """x as the unit at `index` normalises its input from below; batch statistics are frozen.

    `index` may be one beyond the topmost unit, whose activation is normalised divisively.
    """
    shapes = unit_shapes(network)
    if index == len(network.units):
        return normalise_divisive(x, shapes[-1][1])
    given, shape = network.units[index].inputs[0], shapes[index][0]
    if given.normalise == "none":
        return x
    if given.normalise == "divisive":
        return normalise_divisive(x, shape)
    if given.normalise == "batch":
        per_channel = constant([1, shape[0], *[1] * (len(shape) - 1)])
        statistics = {t.role: values[t.name] for t in tensors(network) if t.unit == index and not t.learnable}
        mean, variance = (op.reshape(statistics[role], per_channel) for role in ("mean", "variance"))
        return op.div(op.sub(x, mean), op.sqrt(op.add(variance, scalar(EPS_BATCH, x))))
    return normalise_groups(x, shape, {"layer": 1, "group": given.groups, "instance": shape[0]}[given.normalise])


def mean_square(x: Var, shape: Shape) -> Var:
    """Goodness of activations: (N, *shape) -> (N,), accumulated in float32.

    As (N, 1, …) first: of a mean without the axes, ONNX Runtime keeps x² until all units are done.
    """
    axes = constant(list(range(1, len(shape) + 1)))
    return op.reshape(op.reduce_mean(op.mul(x, x), axes, keepdims=1), constant([-1]))


# ---------------------------------------- a unit's layers ----------------------------------------


class Applied(NamedTuple):
    """A layer, what it received and what it made of that."""

    layer: Layer
    x: Var
    y: Var


def chain(network: Network, index: int, source: Source | None = None) -> list[Layer]:
    """A unit's own layers, or those of its input from `source`."""
    return [layer for layer in unit_layers(network, index) if layer.source == source]


def applied(network: Network, index: int, values: Vars, x: Var) -> list[Applied]:
    """A unit's own layers on what they receive, in turn. A shortcut adds that once more before the closing one."""
    own, given, steps = chain(network, index), x, list[Applied]()
    for layer in own:
        if network.units[index].shortcut and layer == own[-1]:
            x = op.add(to_type(x, dtype_of(given)), given)
        steps.append(Applied(layer, x, apply_layer(layer, values, x)))
        x = steps[-1].y
    return steps


def activation(network: Network, index: int, values: Vars, x: Var) -> Var:
    """A unit's activation, float32, from its normalised input from below alone."""
    summed = apply_layers(chain(network, index, "below"), values, x)
    return to_type(applied(network, index, values, summed)[-1].y, np.float32)


def activations(network: Network, values: Vars, x: Var) -> list[Var]:
    """Activation of every unit in one pass from below, from the embedded input (N, …)."""
    result = []
    for index in range(len(network.units)):
        x = activation(network, index, values, normalise(network, index, values, x))
        result.append(x)
    return result


def layer_gradients(network: Network, index: int, values: Vars, below: Sequence[Applied], dy: Var) -> Vars:
    """Gradients of the weights and biases of a unit's own layers by name, from dy, that at what the closing one
    received; `below` are the others. There is no gradient at the unit's input."""
    gradients: Vars = {}
    parameters = [p for p in unit_parameters(network, index) if p.layer and not p.layer.readout]
    for layer, x, y in reversed(below):
        own = [parameter for parameter in parameters if parameter.layer == layer]
        gradients |= {parameter.name: parameter_gradient(layer, parameter, x, dy) for parameter in own}
        if len(gradients) == len(parameters):
            break
        dy = input_gradient(layer, values, x, y, dy)
    return gradients
