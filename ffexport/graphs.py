"""The ONNX interpreter of the architecture description: the inference graphs of a bundle.

One of every unit, one of the goodness of any images with any labels, and one of the classifier. What they are built
of is in `operations.py`, the steps of recurrent networks in `recurrent.py`. N is the batch, L the number of labels.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
import spox.opset.ai.onnx.v18 as op
from spox import Tensor, Var, argument

from ffruntime.core.architecture import Network, Shape, pattern_shape, scored_units, unit_name, unit_shapes

from .operations import (
    FP32,
    Types,
    activation,
    activations,
    build,
    constant,
    embed,
    mean_square,
    normalise,
    normalise_divisive,
    operands,
    standardise,
    to_type,
    weight_inputs,
)
from .recurrent import settle, step_graph


def unit_graph(network: Network, index: int, types: Types = FP32) -> onnx.ModelProto:
    """`input` -> `activation`, `goodness`, `output`.

    `input` is normalised already; `output` is the activation normalised as the unit above asks for it (or, of
    the topmost unit, divisively): the `input` of the next unit's graph.
    """
    weights = weight_inputs(network, types)
    below, shape = unit_shapes(network)[index]
    x = argument(Tensor(np.float32, ("N", *below)))
    y = activation(network, index, weights, x)
    if index + 1 < len(network.units):
        output = normalise(network.units[index + 1], unit_name(index + 1), weights, y, shape)
    else:
        output = normalise_divisive(y, shape)
    outputs = {"activation": y, "goodness": mean_square(y, shape), "output": output}
    return build({"input": x}, weights, outputs, f"ffedge {unit_name(index)}")


def goodness_graph(network: Network, types: Types = FP32) -> onnx.ModelProto:
    """`images` (N, C, H, W) in [0, 1] × `labels` (L,) -> `goodness` (N, L, U) and `total` (N, L)."""
    weights = weight_inputs(network, types)
    images = argument(Tensor(np.float32, ("N", *network.image.shape)))
    labels = argument(Tensor(np.int64, ("L",)))
    patterns = op.gather(weights["labels.patterns"], labels, axis=0)  # (L, *pattern_shape)
    count = op.concat([op.shape(images, end=1), op.shape(labels)], axis=0)  # [N, L]

    def every_pair(x: Var, axis: int, shape: Shape) -> Var:
        spread = op.expand(op.unsqueeze(x, constant([axis])), op.concat([count, constant([*shape])], axis=0))
        return op.reshape(spread, constant([-1, *shape]))  # (N·L, *shape)

    x = standardise(network, images)
    if network.steps:
        x = embed(network, weights, x, patterns)
        goodness = settle(
            network, weights, x, patterns, lambda x, s: every_pair(x, 1, s), lambda x, s: every_pair(x, 0, s)
        )
    else:
        of_image = every_pair(x, 1, network.image.shape)
        x = embed(network, weights, of_image, every_pair(patterns, 0, pattern_shape(network)))
        shapes = [shape for _, shape in unit_shapes(network)]
        goodness = [mean_square(y, s) for y, s in zip(activations(network, weights, x), shapes, strict=True)]
    table = [op.reshape(g, count) for g in goodness]  # (N, L) each
    scored = [table[index] for index in scored_units(network)]
    if network.score == "log_sum":
        scored = [op.log(op.clip(g, constant(1e-30))) for g in scored]
    total = op.sum(scored) if len(scored) > 1 else op.identity(scored[0])
    total = total if network.goodness == "high" else op.neg(total)
    stacked = op.concat([op.unsqueeze(g, constant([2])) for g in table], axis=2)
    return build(
        {"images": images, "labels": labels},
        weights,
        {"goodness": stacked, "total": total},
        "ffedge goodness",
    )


def classifier_graph(network: Network, types: Types = FP32) -> onnx.ModelProto:
    """`images` (N, C, H, W) in [0, 1] -> `logits` (N, P), `features` (N, D): one pass, with the neutral label."""
    weights = weight_inputs(network, types)
    c, h, w = network.image.shape
    images = argument(Tensor(np.float32, ("N", c, h, w)))
    x = standardise(network, images)
    pattern = op.unsqueeze(weights["labels.neutral"], constant([0]))
    if network.label.placement == "channel":
        size = op.concat([op.shape(images, end=1), constant([network.label.channels, h, w])], axis=0)
        pattern = op.expand(pattern, size)
    ys, shapes = activations(network, weights, embed(network, weights, x, pattern)), unit_shapes(network)
    parts = [
        op.reshape(normalise_divisive(ys[i], shapes[i][1]), constant([-1, math.prod(shapes[i][1])]))
        for i in scored_units(network)
    ]
    features = op.concat(parts, axis=1) if len(parts) > 1 else parts[0]
    flat, weight = operands(features, "head", weights)
    logits = op.add(to_type(op.gemm(flat, weight, transB=1), np.float32), weights["head.bias"])
    return build({"images": images}, weights, {"logits": logits, "features": features}, "ffedge classifier")


def all_graphs(network: Network, types: Types = FP32) -> dict[str, onnx.ModelProto]:
    """Every inference graph of a bundle by name, weights still inputs, in the precision that `types` asks for."""
    of_unit = step_graph if network.steps else unit_graph
    units = {unit_name(index): of_unit(network, index, types) for index in range(len(network.units))}
    return {**units, "goodness": goodness_graph(network, types), "classifier": classifier_graph(network, types)}
