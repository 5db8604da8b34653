"""The ONNX interpreter of the architecture description: the inference graphs of a bundle.

One of every unit, one of the goodness of any images with any labels, and one of the classifier. What a layer is as
a graph stands in `layer_graphs.py`. N is the batch, L the number of labels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import onnx
import spox.opset.ai.onnx.v18 as op
from spox import Tensor, Var, argument

from ffruntime.core.architecture import (
    EPS_DIVISIVE,
    Input,
    Network,
    Shape,
    Source,
    class_goodness,
    constant_inputs,
    pattern_shape,
    scored_units,
    source_shape,
    summed_shape,
    unit_name,
    unit_shapes,
)
from ffruntime.core.graphs import graphs
from ffruntime.core.layers import HEAD

from .class_graphs import class_goodness_graph, goodness_of
from .layer_graphs import apply_layers, constant, operands, to_type
from .onnx_files import FP32, Types, Vars, build, tensor_inputs
from .unit_graphs import activation, activations, chain, mean_square, normalise, normalise_divisive, standardise

Spread: TypeAlias = Callable[[Var, Shape], Var]  # rows of images, or of labels -> rows of all their pairs

# ---------------------------------------- image and label ----------------------------------------


def embed(network: Network, values: Vars, images: Var, patterns: Var) -> Var:
    """Standardised images and label patterns of the same rank and batch -> the first unit's input."""
    if network.label.placement == "top":
        x = images
    elif network.label.placement == "channel":
        x = op.concat([images, patterns], axis=1)
    elif network.label.placement == "morphology":
        changed = morphology(network, images, patterns)
        x = op.add(changed, op.mul(values["labels.keep"], op.sub(images, changed)))
    else:
        x = op.add(op.mul(images, values["labels.keep"]), patterns)
    if network.label.normalise == "range":
        axes = constant([1, 2, 3])
        low = op.reduce_min(x, axes, keepdims=1)
        span = op.add(op.sub(op.reduce_max(x, axes, keepdims=1), low), constant(EPS_DIVISIVE))
        x = op.div(op.sub(x, low), span)
    return x


def morphology(network: Network, images: Var, elements: Var) -> Var:
    """Images (N, C, H, W), each dilated or eroded by its element (N or 1, 1, k, k): `ffruntime/embedding.py`.

    Row by row of the element, so that a temporary is k images and not k². What is outside the image or the element
    is the lowest float32, chosen by Where and never added, so that the maximum is one of the image's own values.
    """
    size, (_, h, w) = network.label.element, network.image.shape
    r, lowest, rows, last = size // 2, constant(float(np.finfo(np.float32).min)), constant([2]), constant([4])
    sign = op.slice(elements, constant([r, r]), constant([r + 1, r + 1]), constant([2, 3]))  # (N, 1, 1, 1)
    highest = signed = op.mul(images, sign)  # an erosion is a dilation of −x
    padded = op.pad(signed, constant([0, 0, r, r] * 2), lowest)
    windows = op.const(np.add.outer(np.arange(w), np.arange(size)))  # (W, k): the columns of each pixel's window
    members = op.unsqueeze(op.greater(op.mul(elements, sign), constant(0.0)), constant([3]))  # (N, 1, k, 1, k)
    for row, member in enumerate(op.split(members, num_outputs=size, axis=2)):
        shifted = op.gather(op.slice(padded, constant([row]), constant([row + h]), rows), windows, axis=3)
        kept = op.where(member, shifted, lowest)  # (N, C, H, W, k)
        highest = op.max([highest, op.reduce_max(kept, last, keepdims=0)])
    return op.mul(highest, sign)


# ---------------------------------------- synchronous steps ----------------------------------------


def one_input(network: Network, index: int, inputs: Input, values: Vars, x: Var) -> Var:
    """What one input of the unit at `index` adds to the unit's sum, from the activity there: float32."""
    if inputs.normalise == "divisive":
        x = normalise_divisive(x, source_shape(network, index, inputs.source))
    return apply_layers(chain(network, index, inputs.source), values, x)


def react(network: Network, index: int, values: Vars, parts: Sequence[Var]) -> Var:
    """What a unit makes of the sum of what its inputs add."""
    shape = summed_shape(network.units[index], index, unit_shapes(network)[index][0])
    total = functools.reduce(op.add, [op.reshape(part, constant([-1, *shape])) for part in parts])
    return apply_layers(chain(network, index), values, total)


def damped(network: Network, old: Var, new: Var) -> Var:
    """A unit's activity after a step, from the one before and what its inputs make of it."""
    assert network.steps
    damping = network.steps.damping
    return op.add(op.mul(old, constant(damping)), op.mul(new, constant(1 - damping)))


def settle(network: Network, values: Vars, x: Var, patterns: Var, of_image: Spread, of_label: Spread) -> list[Var]:
    """Goodness of every unit for every pair, of images (N, …) and labels' patterns (L, Q): each (N·L,).

    What does not change from step to step is computed once: the pass from below for an image, what the image adds
    to the first unit, and a label to the last.
    """
    assert network.steps
    (first, last), shapes = network.steps.score, unit_shapes(network)
    activities = [of_image(y, shape) for y, (_, shape) in zip(activations(network, values, x), shapes, strict=True)]
    given = {}
    for (index, inputs), (value, spread) in zip(
        constant_inputs(network), ((x, of_image), (patterns, of_label)), strict=True
    ):
        made = one_input(network, index, inputs, values, value)
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
                else one_input(network, index, inputs, values, activities[index + offset[inputs.source]])
                for inputs in unit.inputs
            ]
            new.append(damped(network, activities[index], react(network, index, values, parts)))
        activities = new
        if step >= first:
            for goodness, y, (_, shape) in zip(counted, activities, shapes, strict=True):
                goodness.append(mean_square(y, shape))
    return [op.div(functools.reduce(op.add, goodness), constant(float(1 + last - first))) for goodness in counted]


# ---------------------------------------- the graphs ----------------------------------------


def unit_graph(network: Network, index: int, types: Types = FP32) -> onnx.ModelProto:
    """`input` -> `activation`, `goodness` (N,), of every class (N, P) with class goodness, and `output`.

    `input` is normalised already; `output` is the activation normalised as the unit above asks for it (or, of
    the topmost unit, divisively): the `input` of the next unit's graph.
    """
    values, (below, shape) = tensor_inputs(network, types), unit_shapes(network)[index]
    x = argument(Tensor(np.float32, ("N", *below)))
    y = activation(network, index, values, x)
    output = normalise(network, index + 1, values, y)
    of_classes = class_goodness(network)
    goodness = goodness_of(network, index, values, x, y) if of_classes else mean_square(y, shape)
    outputs = {"activation": y, "goodness": goodness, "output": output}
    return build(network, graphs(network)[unit_name(index)], {"input": x}, values, outputs)


def step_graph(network: Network, index: int, types: Types = FP32) -> onnx.ModelProto:
    """`below`, `above` where the unit looks there, and `self` -> `activation`, `goodness`, `start`.

    Inputs are activities of a step ago, not normalised; `below` unit 1 is the standardised image, and `above` the
    topmost the label's pattern. `start` is the activity before the first step, of `below` alone.
    """
    values, unit = tensor_inputs(network, types), network.units[index]
    sources: list[Source] = ["self", *(inputs.source for inputs in unit.inputs if inputs.source != "self")]
    given = {
        source: argument(Tensor(np.float32, ("N", *source_shape(network, index, source)))) for source in sources
    }
    parts = [one_input(network, index, inputs, values, given[inputs.source]) for inputs in unit.inputs]
    start = react(network, index, values, parts[:1])
    y = damped(network, given["self"], react(network, index, values, parts))
    outputs = {"activation": y, "goodness": mean_square(y, unit_shapes(network)[index][1]), "start": start}
    named: Vars = {str(source): value for source, value in given.items()}
    return build(network, graphs(network)[unit_name(index)], named, values, outputs)


def goodness_graph(network: Network, types: Types = FP32) -> onnx.ModelProto:
    """`images` (N, C, H, W) in [0, 1] × `labels` (L,) -> `goodness` (N, L, U) and `total` (N, L)."""
    values = tensor_inputs(network, types)
    images = argument(Tensor(np.float32, ("N", *network.image.shape)))
    labels = argument(Tensor(np.int64, ("L",)))
    patterns = op.gather(values["labels.patterns"], labels, axis=0)  # (L, *pattern_shape)
    count = op.concat([op.shape(images, end=1), op.shape(labels)], axis=0)  # [N, L]

    def every_pair(x: Var, axis: int, shape: Shape) -> Var:
        spread = op.expand(op.unsqueeze(x, constant([axis])), op.concat([count, constant([*shape])], axis=0))
        return op.reshape(spread, constant([-1, *shape]))  # (N·L, *shape)

    x = standardise(network, images)
    if network.steps:
        x = embed(network, values, x, patterns)
        goodness = settle(
            network, values, x, patterns, lambda x, s: every_pair(x, 1, s), lambda x, s: every_pair(x, 0, s)
        )
    else:
        of_image = every_pair(x, 1, network.image.shape)
        x = embed(network, values, of_image, every_pair(patterns, 0, pattern_shape(network)))
        shapes = [shape for _, shape in unit_shapes(network)]
        goodness = [mean_square(y, s) for y, s in zip(activations(network, values, x), shapes, strict=True)]
    table = [op.reshape(g, count) for g in goodness]  # (N, L) each
    scored = [table[index] for index in scored_units(network)]
    if network.score == "log_sum":
        scored = [op.log(op.clip(g, constant(1e-30))) for g in scored]
    total = op.sum(scored) if len(scored) > 1 else op.identity(scored[0])
    total = total if network.goodness == "high" else op.neg(total)
    stacked = op.concat([op.unsqueeze(g, constant([2])) for g in table], axis=2)
    outputs = {"goodness": stacked, "total": total}
    return build(network, graphs(network)["goodness"], {"images": images, "labels": labels}, values, outputs)


def classifier_graph(network: Network, types: Types = FP32) -> onnx.ModelProto:
    """`images` (N, C, H, W) in [0, 1] -> `logits` (N, P), `features` (N, D): one pass, with the neutral label."""
    values = tensor_inputs(network, types)
    c, h, w = network.image.shape
    images = argument(Tensor(np.float32, ("N", c, h, w)))
    x = standardise(network, images)
    pattern = op.unsqueeze(values["labels.neutral"], constant([0]))
    if network.label.placement == "channel":
        size = op.concat([op.shape(images, end=1), constant([network.label.channels, h, w])], axis=0)
        pattern = op.expand(pattern, size)
    ys, shapes = activations(network, values, embed(network, values, x, pattern)), unit_shapes(network)
    parts = [
        op.reshape(normalise_divisive(ys[i], shapes[i][1]), constant([-1, math.prod(shapes[i][1])]))
        for i in scored_units(network)
    ]
    features = op.concat(parts, axis=1) if len(parts) > 1 else parts[0]
    flat, weight = operands(features, HEAD, values)
    logits = op.add(to_type(op.gemm(flat, weight, transB=1), np.float32), values[f"{HEAD}.bias"])
    outputs = {"logits": logits, "features": features}
    return build(network, graphs(network)["classifier"], {"images": images}, values, outputs)


def all_graphs(network: Network, types: Types = FP32) -> dict[str, onnx.ModelProto]:
    """Every inference graph of a bundle by name, weights still inputs, in the precision that `types` asks for."""
    of_unit = step_graph if network.steps else unit_graph
    units = {unit_name(index): of_unit(network, index, types) for index in range(len(network.units))}
    if class_goodness(network):
        return {**units, "goodness": class_goodness_graph(network, types)}
    return {**units, "goodness": goodness_graph(network, types), "classifier": classifier_graph(network, types)}
