"""Layer-local gradients as ordinary inference graphs: what a device needs to go on learning.

The gradient of a unit's own loss reaches no further than the unit's input, so it is a closed formula of the input,
the parameters and the unit's activation y (Hinton, section 2): with goodness g = mean(y²) over n neurons,
∂loss/∂(pre-activation) = (2 / n) · ∂loss/∂g · y, which is zero where the last ReLU is. Parameters are inputs, so
that one graph serves before and after every update.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import onnx
import spox.opset.ai.onnx.v18 as op
from numpy.typing import DTypeLike
from spox import Tensor, Var, argument

from ffruntime.core.architecture import Network, sign, unit_shapes
from ffruntime.core.graphs import graphs, unit_gradient
from ffruntime.core.layers import head_features, head_parameters, unit_parameters
from ffruntime.core.learning import LOWEST_GOODNESS, ClassLoss, LocalLoss, PairLoss, Ratio, Symmetric

from .class_graphs import class_gradient_graph
from .layer_graphs import constant, dtype_of, scalar
from .onnx_files import build, of_dtype
from .unit_graphs import applied, layer_gradients, mean_square, normalise

Batch: TypeAlias = tuple[int, int]  # N images, and M negatives for each


def gradient_graph(
    network: Network, index: int, loss: PairLoss, dtype: DTypeLike = np.float32, batch: Batch | None = None
) -> onnx.ModelProto:
    """The gradient of one unit's loss, averaged over the images, and what the units above go on with.

    Inputs: `positive` (N, …) and `negative` (M·N, …), the unit's normalised inputs, all images' first negatives
    first; the unit's parameters, and where the next unit normalises by batch statistics, those: under their names
    in `weights.safetensors`. Outputs: `gradient.<name>` of every parameter; `next.positive` and `next.negative`,
    the activations normalised as the next unit wants them (of the topmost unit divisively); `goodness.positive`
    (N,) and `goodness.negative` (M·N,); `loss` (). All are of `dtype`, and from before the update. N and M are
    dynamic, or as `batch` says.
    """
    below, shape = unit_shapes(network)[index]
    values, parameters = of_dtype(network, dtype), unit_parameters(network, index)
    n, negatives = (batch[0], batch[0] * batch[1]) if batch else ("N", "M·N")
    positive = argument(Tensor(np.dtype(dtype), (n, *below)))
    negative = argument(Tensor(np.dtype(dtype), (negatives, *below)))
    *below_relu, (_, _, x) = applied(network, index, values, op.concat([positive, negative], axis=0))

    images = constant([batch[0]]) if batch else op.shape(positive, end=1)  # [N]
    goodness = op.reshape(mean_square(x, shape), op.concat([constant([-1]), images], axis=0))  # (1 + M, N)
    value, slopes = pair_loss(loss, goodness, math.prod(shape), sign(network))
    factor = op.div(scalar(2 / math.prod(shape), x), op.cast(images, to=dtype_of(x).type))
    dy = op.mul(x, op.reshape(op.mul(slopes, factor), constant([-1, *[1] * len(shape)])))

    gradients = layer_gradients(network, index, values, below_relu, dy)  # the last ReLU is in dy already

    above = normalise(network, index + 1, values, x)
    outputs = {parameter.gradient: gradients[parameter.name] for parameter in parameters}
    halves = {"next": (split(above, images), shape), "goodness": (split(goodness, constant([1])), ())}
    for name, (parts, size) in halves.items():
        for part, side in zip(parts, ("positive", "negative"), strict=True):
            outputs[f"{name}.{side}"] = op.reshape(part, constant([-1, *size]))
    outputs["loss"] = op.reduce_mean(value, keepdims=0)
    inputs = {"positive": positive, "negative": negative}
    return build(network, unit_gradient(network, index), inputs, values, outputs)


def split(x: Var, count: Var) -> tuple[Var, Var]:
    """The first rows of x, `count` of them (an int64 vector of one), and the others."""
    start, end, axis = constant([0]), constant([np.iinfo(np.int64).max]), constant([0])
    return op.slice(x, start, count, axis), op.slice(x, count, end, axis)


def pair_loss(loss: PairLoss, goodness: Var, neurons: int, sign: int = 1) -> tuple[Var, Var]:
    """Goodness (1 + M, N), the right labels' first -> each image's loss (N,), and its slopes (1 + M, N).

    The formulas are those of `docs/bundle.md`; `sign` −1 is for goodness that is to be low.
    Exponentials are of what is left below the largest exponent, so that none overflows.
    """
    if isinstance(loss, Symmetric):
        return pair_softplus(sign * loss.alpha, goodness)
    if isinstance(loss, Ratio):
        lowest = scalar(LOWEST_GOODNESS, goodness)
        clipped = op.max([goodness, lowest])
        value, slopes = pair_softplus(sign * loss.alpha, op.log(clipped))
        return value, op.where(op.less(goodness, lowest), scalar(0.0, goodness), op.div(slopes, clipped))
    scale = scalar(float(sign * (neurons if loss.reduce == "sum" else 1)), goodness)
    excess = op.mul(scale, op.sub(goodness, scalar(loss.theta, goodness)))
    positive, negative = split(excess, constant([1]))
    (cost, share), (costs, shares) = softplus(op.neg(positive)), softplus(negative)
    first = constant([0])
    value = op.add(op.squeeze(cost, first), op.reduce_mean(costs, first, keepdims=0))
    count = op.cast(op.shape(negative, end=1), to=dtype_of(goodness).type)  # [M]
    return value, op.mul(scale, op.concat([op.neg(share), op.div(shares, count)], axis=0))


def pair_softplus(alpha: float, goodness: Var) -> tuple[Var, Var]:
    """ln(1 + Σₘ e^(−α·(g⁺ − g⁻ₘ))) of `goodness` (1 + M, N), and its slopes in g."""
    positive, negative = split(goodness, constant([1]))
    factor = scalar(alpha, goodness)
    value, shares = log_one_plus_sum(op.mul(factor, op.sub(negative, positive)))
    slopes = op.mul(factor, shares)
    return value, op.concat([op.neg(op.reduce_sum(slopes, constant([0]))), slopes], axis=0)


def softplus(z: Var) -> tuple[Var, Var]:
    """ln(1 + eᶻ) and its slope, elementwise, at any z."""
    alone = constant([0])
    value, slope = log_one_plus_sum(op.unsqueeze(z, alone))
    return value, op.squeeze(slope, alone)


def log_one_plus_sum(z: Var) -> tuple[Var, Var]:
    """z (M, …) -> ln(1 + Σₘ eᶻ) (…) and its slopes eᶻ / (1 + Σₘ eᶻ) (M, …)."""
    first = constant([0])
    top = op.relu(op.reduce_max(z, first))  # the largest exponent, that of the 1 included
    powers = op.exp(op.sub(z, top))
    total = op.add(op.exp(op.neg(top)), op.reduce_sum(powers, first))
    return op.squeeze(op.add(top, op.log(total)), first), op.div(powers, total)


def head_gradient_graph(
    network: Network, dtype: DTypeLike = np.float32, batch: int | None = None
) -> onnx.ModelProto:
    """The gradient of the linear classifier's cross-entropy, averaged over the images; it stops at its inputs.

    Inputs: `features` (N, D), those of `classifier.onnx`; `labels` (N,) int64; `head.weight`, `head.bias`. Outputs:
    `gradient.head.weight`, `gradient.head.bias`, `logits` (N, P), `loss` ().
    """
    values = of_dtype(network, dtype)
    weight, bias = head_parameters(network)
    features = argument(Tensor(np.dtype(dtype), (batch or "N", head_features(network))))
    labels = argument(Tensor(np.int64, (batch or "N",)))
    logits = op.gemm(features, values[weight.name], values[bias.name], transB=1)
    log_shares, zero, classes = op.log_softmax(logits, axis=1), scalar(0.0, logits), constant([1])
    rows = op.const(np.arange(network.label.patterns))
    right = op.equal(op.unsqueeze(labels, classes), rows)  # (N, P)
    wrong = op.where(right, zero, op.exp(log_shares))
    error = op.where(right, op.neg(op.reduce_sum(wrong, classes)), wrong)  # softmax − 1, without its rounding
    error = op.div(error, op.cast(op.shape(labels), to=dtype_of(logits).type))
    costs = op.neg(op.reduce_sum(op.where(right, log_shares, zero), classes, keepdims=0))
    outputs = {
        weight.gradient: op.matmul(op.transpose(error, perm=[1, 0]), features),
        bias.gradient: op.reduce_sum(error, constant([0]), keepdims=0),
        "logits": logits,
        "loss": op.reduce_mean(costs, keepdims=0),
    }
    inputs = {"features": features, "labels": labels}
    return build(network, graphs(network)["gradient_head"], inputs, values, outputs)


def trained_units(network: Network) -> list[int]:
    """Indices of the units that have a gradient: trained, and with something to train."""
    return [i for i, unit in enumerate(network.units) if unit.trained and unit_parameters(network, i)]


def all_gradient_graphs(network: Network, loss: LocalLoss | None) -> dict[str, onnx.ModelProto]:
    """Every gradient graph of a bundle by name; without a loss of the units' own (backpropagation), none."""
    if loss is None:
        return {}
    trained = {unit_gradient(network, index).name: index for index in trained_units(network)}
    if isinstance(loss, ClassLoss):
        return {name: class_gradient_graph(network, index, loss) for name, index in trained.items()}
    units = {name: gradient_graph(network, index, loss) for name, index in trained.items()}
    return {**units, "gradient_head": head_gradient_graph(network)}
