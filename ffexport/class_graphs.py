"""Class goodness as graphs: a readout, its loss and its gradient, and the graphs of a bundle made of them.

Layer-local classifiers (`pred` of Nøkland and Eidnes 2019; in the Forward-Forward literature CwComp, DeeperForward,
CAW-Conv): a unit's gradient passes its readout and its own operations, never another unit. N is the batch, P the
number of rows of a readout: one for every class, and the spare ones. What a layer is as a graph stands in
`layer_graphs.py`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import onnx
import spox.opset.ai.onnx.v18 as op
from numpy.typing import DTypeLike
from spox import Tensor, Var, argument

from ffruntime.core.architecture import (
    Network,
    Readout,
    Shape,
    cell_edges,
    readout_cells,
    scored_units,
    unit_shapes,
)
from ffruntime.core.graphs import graphs, unit_gradient
from ffruntime.core.layers import KNOWN, TOTAL, readout_layer, readout_parameters, unit_parameters
from ffruntime.core.learning import ClassLoss

from .layer_graphs import (
    apply_layer,
    constant,
    dtype_of,
    input_gradient,
    parameter_gradient,
    scalar,
    spread_evenly,
    to_type,
)
from .onnx_files import FP32, Types, Vars, build, of_dtype, tensor_inputs
from .unit_graphs import (
    activations,
    applied,
    layer_gradients,
    normalise,
    root_mean_square,
    standardise,
)

UNKNOWN = -1e30  # in place of the goodness of a row that is not known: its share of a softmax is 0

# ---------------------------------------- the readout ----------------------------------------


class Read(NamedTuple):
    """What a readout makes of its unit's activation."""

    root: Var  # (N, 1): √(mean(v²) + ε) of the averages v
    z: Var  # (N, F): v / root
    goodness: Var  # (N, P)


def read(network: Network, index: int, values: Vars, y: Var) -> Read:
    """A unit's readout of its activation y (N, …). Averages and their normalisation are of y's type."""
    unit, layer, shape = network.units[index], readout_layer(network, index), unit_shapes(network)[index][1]
    assert unit.readout
    assert layer
    v = op.reshape(averaged(unit.readout, shape, y), constant([-1, *layer.before]))
    root = root_mean_square(v, layer.before)
    z = op.div(v, root)
    return Read(root, z, to_type(apply_layer(layer, values, z), dtype_of(y)))


def averaged(readout: Readout, shape: Shape, y: Var) -> Var:
    """y (N, *shape) -> its means over the readout's cells, (N, C, rows, columns); a vector stays as it is."""
    cells = readout_cells(readout, shape)
    if cells == shape:
        return y
    if all(side % count == 0 for side, count in zip(shape[1:], cells[1:], strict=True)):
        size = [side // count for side, count in zip(shape[1:], cells[1:], strict=True)]
        return op.average_pool(y, kernel_shape=size, strides=size)
    rows, columns = (
        op.const(shares(side, count).astype(dtype_of(y))) for side, count in zip(shape[1:], cells[1:], strict=True)
    )
    return op.matmul(rows, op.matmul(y, op.transpose(columns, perm=[1, 0])))


def shares(side: int, cells: int) -> np.ndarray:
    """(cells, side): which share of each cell a pixel of a side is."""
    result = np.zeros((cells, side))
    for cell, (first, end) in enumerate(pairwise(cell_edges(side, cells))):
        result[cell, first:end] = 1 / (end - first)
    return result


def readout_gradients(network: Network, index: int, values: Vars, found: Read, error: Var) -> tuple[Vars, Var]:
    """From ∂loss/∂goodness (N, P), where a readout gave `found`: its gradients by name, and that at the activation.

    ∂v = (∂z − z · mean(∂z ⊙ z)) / √(mean(v²) + ε), each cell's share of it spread evenly.
    """
    unit, layer, shape = network.units[index], readout_layer(network, index), unit_shapes(network)[index][1]
    assert unit.readout
    assert layer
    own = [parameter for parameter in unit_parameters(network, index) if parameter.layer == layer]
    gradients = {parameter.name: parameter_gradient(layer, parameter, found.z, error) for parameter in own}
    dz = input_gradient(layer, values, found.z, found.goodness, error)
    along = op.reduce_mean(op.mul(dz, found.z), constant([1]), keepdims=1)  # (N, 1)
    dv = op.div(op.sub(dz, op.mul(found.z, along)), found.root)
    cells = readout_cells(unit.readout, shape)
    dv = op.reshape(dv, constant([-1, *cells]))
    if cells == shape:
        return gradients, dv
    edges = [cell_edges(side, count) for side, count in zip(shape[1:], cells[1:], strict=True)]
    return gradients, spread_evenly(dv, edges, shape[1:])


# ---------------------------------------- the loss ----------------------------------------


def class_loss(loss: ClassLoss, goodness: Var, labels: Var, known: Var, patterns: int) -> tuple[Var, Var]:
    """Goodness (N, P), labels (N,) and which of the P rows are known -> loss (N,) and slopes (N, P) of each image.

    Cross-entropy of the softmax over the known rows; `smoothing` of the target is spread evenly over these.
    """
    zero, rows, classes = scalar(0.0, goodness), op.greater(known, scalar(0.0, known)), constant([1])
    right = op.equal(op.unsqueeze(labels, classes), op.const(np.arange(patterns)))  # (N, P)
    log_shares = op.log_softmax(op.where(rows, goodness, scalar(UNKNOWN, goodness)), axis=1)
    wrong = op.where(right, zero, op.exp(log_shares))
    slopes = op.where(right, op.neg(op.reduce_sum(wrong, classes)), wrong)  # softmax − 1, without its rounding
    costs = op.where(right, op.neg(log_shares), zero)
    if loss.smoothing:
        counted = op.cast(rows, to=dtype_of(goodness).type)
        even = op.div(counted, op.reduce_sum(counted, constant([0])))  # (P,)
        moved = op.sub(even, op.where(right, scalar(1.0, goodness), zero))  # (N, P): smoothed target − one-hot
        moved = op.mul(moved, scalar(loss.smoothing, goodness))
        slopes, costs = op.sub(slopes, moved), op.sub(costs, op.mul(moved, log_shares))
    slopes, costs = op.where(rows, slopes, zero), op.where(rows, costs, zero)
    return op.reduce_sum(costs, classes, keepdims=0), slopes


def nearness_of(network: Network, index: int, values: Vars, goodness: Var) -> Var:
    """A unit's goodness R · z + b of each row (N, P) -> −½ ‖z − R‖² + ½ ‖z‖²: each row is its class's prototype."""
    weight, bias = (values[parameter.name] for parameter in readout_parameters(network, index))
    half_squares = op.mul(op.reduce_sum(op.mul(weight, weight), constant([1]), keepdims=0), scalar(0.5, goodness))
    return op.sub(goodness, op.add(bias, half_squares))


def with_nearness(network: Network, index: int, values: Vars, gradients: Vars, error: Var) -> Vars:
    """Gradients of a readout as if `error` (N, P) were all at its goodness -> where so much of it is at nearness.

    No bias is a part of that, and ∂R is smaller by R times the sum over the images.
    """
    weight, bias = (parameter.name for parameter in readout_parameters(network, index))
    along = op.reduce_sum(error, constant([0]), keepdims=0)  # (P,)
    pulled = op.mul(values[weight], op.unsqueeze(along, constant([1])))
    return {**gradients, weight: op.sub(gradients[weight], pulled), bias: op.sub(gradients[bias], along)}


# ---------------------------------------- the graphs ----------------------------------------


def goodness_of(network: Network, index: int, values: Vars, images: Var, y: Var) -> Var:
    """(N, P) of a unit with activation y; 0 where it has no readout. `images` has N rows."""
    if network.units[index].readout:
        return read(network, index, values, y).goodness
    size = op.concat([op.shape(images, end=1), constant([network.label.patterns])], axis=0)
    return op.expand(constant(0.0), size)


def class_goodness_graph(network: Network, types: Types = FP32) -> onnx.ModelProto:
    """`images` (N, C, H, W) in [0, 1] × `labels` (L,) -> `goodness` (N, L, U), `total` (N, L), `features` (N, F):
    what the scored units' readouts read, one unit after the other. All in one pass."""
    values = tensor_inputs(network, types)
    images = argument(Tensor(np.float32, ("N", *network.image.shape)))
    labels = argument(Tensor(np.int64, ("L",)))
    ys = activations(network, values, standardise(network, images))
    every, features = list[Var](), list[Var]()
    for index, (unit, y) in enumerate(zip(network.units, ys, strict=True)):
        if unit.scored:
            found = read(network, index, values, y)
            every.append(found.goodness)
            features.append(found.z)
        else:
            every.append(goodness_of(network, index, values, images, y))
    asked = [op.gather(goodness, labels, axis=1) for goodness in every]  # (N, L) each
    weighed = [op.mul(asked[index], op.gather(values[TOTAL], constant([index]))) for index in scored_units(network)]
    outputs = {
        "goodness": op.concat([op.unsqueeze(goodness, constant([2])) for goodness in asked], axis=2),
        "total": op.sum(weighed) if len(weighed) > 1 else weighed[0],
        "features": op.concat(features, axis=1) if len(features) > 1 else features[0],
    }
    return build(network, graphs(network)["goodness"], {"images": images, "labels": labels}, values, outputs)


def class_gradient_graph(
    network: Network, index: int, loss: ClassLoss, dtype: DTypeLike = np.float32, batch: int | None = None
) -> onnx.ModelProto:
    """The gradient of one unit's loss, averaged over the images, and what the unit above goes on with.

    Inputs: `input` (N, …), the unit's normalised input; `labels` (N,) int64; under their names in
    `weights.safetensors` which rows are classes' (P,), the unit's parameters, and where the next unit normalises by
    batch statistics, those. Outputs: `gradient.<name>` of every parameter; `next` (N, …), the activation normalised
    as the next unit wants it (of the topmost unit divisively); `goodness` (N, P); `loss` (). All are of `dtype`,
    and from before the update. N is dynamic, or `batch`.
    """
    below, values = unit_shapes(network)[index][0], of_dtype(network, dtype)
    x = argument(Tensor(np.dtype(dtype), (batch or "N", *below)))
    labels = argument(Tensor(np.int64, (batch or "N",)))
    *others, (closing, given, y) = applied(network, index, values, x)
    found = read(network, index, values, y)
    rows, images = (labels, values[KNOWN], network.label.patterns), op.cast(op.shape(labels), to=dtype_of(y).type)
    costs, slopes = class_loss(loss, found.goodness, *rows)
    error = op.div(slopes, images)
    if loss.prototypes:
        weight = scalar(loss.prototypes, y)
        more, pulls = class_loss(loss, nearness_of(network, index, values, found.goodness), *rows)
        near = op.div(op.mul(pulls, weight), images)
        costs, error = op.add(costs, op.mul(more, weight)), op.add(error, near)
    gradients, dy = readout_gradients(network, index, values, found, error)
    if loss.prototypes:
        gradients = with_nearness(network, index, values, gradients, near)
    gradients |= layer_gradients(network, index, values, others, input_gradient(closing, values, given, y, dy))
    outputs = {tensor.gradient: gradients[tensor.name] for tensor in unit_parameters(network, index)}
    outputs["next"] = normalise(network, index + 1, values, y)
    outputs["goodness"] = found.goodness
    outputs["loss"] = op.reduce_mean(costs, keepdims=0)
    return build(network, unit_gradient(network, index), {"input": x, "labels": labels}, values, outputs)
