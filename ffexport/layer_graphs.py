"""A layer as graphs, written with spox: what its operation computes and, beside it, the gradients of that.

x (N, *before) is a layer's input, y (N, *after) its output, dy the gradient there and dx that at the input; N may
be dynamic. Only operators occur that ONNX Runtime, TensorRT and TensorRT-RTX all take. A new operation is its
functions here and a line in `OPERATIONS`. What a unit makes of its layers stands in `unit_graphs.py`.

Precision is a matter of types, and the type of a layer's stored weight decides: float16 weights make a layer
compute in float16; int8 weights have scales, and the layer's input passes QuantizeLinear and DequantizeLinear. All
between the layers (normalisation, a readout's averages, goodness, logits) is float32, and so are a graph's inputs
and outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import spox.opset.ai.onnx.v18 as op
from numpy.typing import DTypeLike
from spox import Var

from ffruntime.core.architecture import AvgPool, Conv, LeakyRelu, Linear, Local, MaxPool, Op, Relu
from ffruntime.core.errors import FFError
from ffruntime.core.layers import Layer, Tensor

from .onnx_files import Vars

# ---------------------------------------- values and types ----------------------------------------


def constant(value: float | list[int]) -> Var:
    """A float as float32 scalar, or integers as an int64 vector."""
    return op.const(np.float32(value) if isinstance(value, float) else np.array(value, np.int64))


def scalar(value: float, like: Var) -> Var:
    """A float of the type that `like` has."""
    return op.const(np.array(value, dtype_of(like)))


def dtype_of(x: Var) -> np.dtype:
    """Type of the elements."""
    return np.dtype(x.unwrap_tensor().dtype)


def to_type(x: Var, dtype: DTypeLike) -> Var:
    """x, cast where it is of another type."""
    return x if dtype_of(x) == np.dtype(dtype) else op.cast(x, to=np.dtype(dtype).type)


def operands(x: Var, layer: str, values: Vars) -> tuple[Var, Var]:
    """A layer's input and its weight, in the type that the layer computes in."""
    weight = values[f"{layer}.weight"]
    if dtype_of(weight) != np.int8:
        return to_type(x, dtype_of(weight)), weight
    scale, zero = values[f"{layer}.input_scale"], op.const(np.int8(0))
    x = op.dequantize_linear(op.quantize_linear(to_type(x, np.float32), scale, zero), scale, zero)
    return x, op.dequantize_linear(weight, values[f"{layer}.weight_scale"], axis=0)


# ---------------------------------------- a layer, whatever its operation ----------------------------------------


class Graphs(NamedTuple):
    """What there is of an operation; each function takes its description and where it stands first."""

    forward: Callable[..., Var]  # (operation, layer, values, x) -> y
    weight_gradient: Callable[..., Var] | None  # (operation, layer, x, dy) -> as the weight; None: it has none
    input_gradient: Callable[..., Var]  # (operation, layer, values, x, y, dy) -> dx


def operation(layer: Layer) -> Graphs:
    """The graphs of a layer's operation. Raises `FFError` where there are none."""
    if type(layer.op) not in OPERATIONS:
        kind = layer.op.__struct_config__.tag
        raise FFError(f"{layer.name}: no graphs of {kind}: add it to OPERATIONS in ffexport/layer_graphs.py")
    return OPERATIONS[type(layer.op)]


def apply_layer(layer: Layer, values: Vars, x: Var) -> Var:
    """y of a layer."""
    return operation(layer).forward(layer.op, layer, values, x)


def apply_layers(chain: Iterable[Layer], values: Vars, x: Var) -> Var:
    """What layers, one after the other, make of x, as float32."""
    for layer in chain:
        x = apply_layer(layer, values, x)
    return to_type(x, np.float32)


def parameter_gradient(layer: Layer, parameter: Tensor, x: Var, dy: Var) -> Var:
    """The gradient of a layer's weight or bias, in its shape."""
    weight_gradient = operation(layer).weight_gradient
    if parameter.role == "weight" and weight_gradient:
        return weight_gradient(layer.op, layer, x, dy)
    shared = range(1 + len(parameter.shape), 1 + len(layer.after))  # a bias is summed over all that it is added to
    return op.reduce_sum(dy, constant([0, *shared]), keepdims=0)


def input_gradient(layer: Layer, values: Vars, x: Var, y: Var, dy: Var) -> Var:
    """dx of a layer."""
    return operation(layer).input_gradient(layer.op, layer, values, x, y, dy)


# ---------------------------------------- convolution ----------------------------------------


def conv_forward(conv: Conv, layer: Layer, values: Vars, x: Var) -> Var:
    """One Conv: x (N, C, H, W) -> (N, out, H', W')."""
    k, s, p = conv.kernel, conv.stride, conv.padding
    bias = values[f"{layer.name}.bias"] if conv.bias else None
    x, weight = operands(x, layer.name, values)
    return op.conv(x, weight, bias, kernel_shape=[k, k], strides=[s, s], pads=[p] * 4)


def conv_weight_gradient(conv: Conv, layer: Layer, x: Var, dy: Var) -> Var:
    """Correlation of x with dy -> (out, C, k, k), as one product over all positions for each tap of the kernel.

    One Conv with the axes of batch and channels swapped (the stride as dilation) would be a smaller graph, but its
    batch is a filter's channels, which have to be static in TensorRT; it is slower, too. All that was tried is in
    `benchmarks/README.md`.
    """
    (c, _, _), (out, h, w) = layer.before, layer.after
    k, s, p = conv.kernel, conv.stride, conv.padding
    rows, columns, step, flat = constant([2]), constant([3]), constant([s]), constant([c, -1])
    starts = [constant([tap]) for tap in range(k)]
    row_ends, column_ends = ([constant([tap + s * (n - 1) + 1]) for tap in range(k)] for n in (h, w))
    x = op.transpose(op.pad(x, constant([0, 0, p, p] * 2)) if p else x, perm=[1, 0, 2, 3])  # (C, N, H, W)
    dy = op.reshape(op.transpose(dy, perm=[0, 2, 3, 1]), constant([-1, out]))  # (N·H'·W', out)
    taps = []
    for start, end in zip(starts, column_ends, strict=True):
        strip = op.slice(x, start, end, columns, step)
        for row, row_end in zip(starts, row_ends, strict=True):
            taps.append(op.matmul(op.reshape(op.slice(strip, row, row_end, rows, step), flat), dy))  # (C, out)
    return op.transpose(op.reshape(op.concat(taps, axis=0), constant([k, k, c, out])), perm=[3, 2, 1, 0])


def conv_input_gradient(conv: Conv, layer: Layer, values: Vars, _x: Var, _y: Var, dy: Var) -> Var:
    """The transposed convolution: dy, with stride − 1 zeros behind each value, convolved with the turned kernel."""
    (_, *sides), (out, *positions) = layer.before, layer.after
    k, s, p = conv.kernel, conv.stride, conv.padding
    if s > 1:
        first = np.zeros((s, 1, s))
        first[0, 0, 0] = 1
        spread = op.reshape(dy, constant([-1, out, positions[0], 1, positions[1], 1]))
        spread = op.mul(spread, op.const(first.astype(dtype_of(dy))))  # (N, out, H', s, W', s)
        dy = op.reshape(spread, constant([-1, out, *(n * s for n in positions)]))
    turned = op.const(np.arange(k)[::-1].copy())
    weight = op.gather(op.gather(values[f"{layer.name}.weight"], turned, axis=2), turned, axis=3)
    before, skipped = max(k - 1 - p, 0), max(p - (k - 1), 0)
    after = [max(skipped + side - (n * s + before - k + 1), 0) for side, n in zip(sides, positions, strict=True)]
    dx = op.conv(dy, op.transpose(weight, perm=[1, 0, 2, 3]), kernel_shape=[k, k], pads=[before, before, *after])
    return op.slice(dx, constant([skipped] * 2), constant([skipped + side for side in sides]), constant([2, 3]))


# ---------------------------------------- locally connected ----------------------------------------


def local_forward(local: Local, layer: Layer, values: Vars, x: Var) -> Var:
    """x (N, C, H, W) -> (N, out, H', W'): at each position a product with the weights of that position."""
    (c, _, _), (out, h, w) = layer.before, layer.after
    neurons = constant([h * w, out, c * local.kernel**2])
    x, weight = operands(x, layer.name, values)
    y = op.matmul(op.reshape(weight, neurons), _fields(local, layer, x))  # (H'·W', out, N)
    y = op.transpose(op.reshape(y, constant([h, w, out, -1])), perm=[3, 2, 0, 1])
    return op.add(y, values[f"{layer.name}.bias"]) if local.bias else y


def local_weight_gradient(local: Local, layer: Layer, x: Var, dy: Var) -> Var:
    """A product over the batch at each position -> (H', W', out, C, k, k)."""
    out, h, w = layer.after
    seen = op.transpose(_fields(local, layer, x), perm=[0, 2, 1])  # (H'·W', N, C·k·k)
    gradient = op.matmul(_by_position(layer, dy), seen)
    return op.reshape(gradient, constant([h, w, out, layer.before[0], local.kernel, local.kernel]))


def local_input_gradient(local: Local, layer: Layer, values: Vars, _x: Var, _y: Var, dy: Var) -> Var:
    """What every receptive field gets, added up where they overlap: products with a 0/1 matrix for each side."""
    (c, *sides), (out, h, w) = layer.before, layer.after
    k, weight = local.kernel, values[f"{layer.name}.weight"]
    weight = op.transpose(op.reshape(weight, constant([h * w, out, c * k * k])), perm=[0, 2, 1])
    shares = op.reshape(op.matmul(weight, _by_position(layer, dy)), constant([h, w, c, k, k, -1]))
    shares = op.reshape(op.transpose(shares, perm=[5, 2, 0, 3, 1, 4]), constant([-1, c, h * k, w * k]))
    rows, columns = (_places(local, n, side, dtype_of(dy)) for n, side in zip((h, w), sides, strict=True))
    return op.matmul(op.transpose(rows, perm=[1, 0]), op.matmul(shares, columns))  # (N, C, H, W)


def _fields(local: Local, layer: Layer, x: Var) -> Var:
    """Receptive fields of all positions: x (N, C, H, W) -> (H'·W', C·k·k, N)."""
    (c, _, _), (_, h, w) = layer.before, layer.after
    k, s, p = local.kernel, local.stride, local.padding
    x = op.pad(x, constant([0, 0, p, p] * 2)) if p else x
    for axis, size in ((2, h), (4, w)):
        x = op.gather(x, op.const(np.add.outer(s * np.arange(size), np.arange(k))), axis=axis)
    x = op.transpose(x, perm=[2, 4, 1, 3, 5, 0])  # from (N, C, H', k, W', k)
    return op.reshape(x, constant([h * w, c * k * k, -1]))


def _by_position(layer: Layer, dy: Var) -> Var:
    """dy (N, out, H', W') -> (H'·W', out, N)."""
    out, h, w = layer.after
    return op.reshape(op.transpose(dy, perm=[2, 3, 1, 0]), constant([h * w, out, -1]))


def _places(local: Local, positions: int, side: int, dtype: np.dtype) -> Var:
    """(positions · k, side): 1 where a tap of a receptive field falls on a row (or column) of the image."""
    taps = np.add.outer(local.stride * np.arange(positions), np.arange(local.kernel)) - local.padding
    there = op.equal(op.const(taps.reshape(-1, 1)), op.const(np.arange(side)))
    return op.cast(there, to=dtype.type)


# ---------------------------------------- linear ----------------------------------------


def linear_forward(linear: Linear, layer: Layer, values: Vars, x: Var) -> Var:
    """One Gemm: x (N, …), flattened in C order, -> (N, out)."""
    flat = _flat(layer, x) if len(layer.before) > 1 else x
    bias = values[f"{layer.name}.bias"] if linear.bias else None
    flat, weight = operands(flat, layer.name, values)
    return op.gemm(flat, weight, bias, transB=1)


def linear_weight_gradient(_linear: Linear, layer: Layer, x: Var, dy: Var) -> Var:
    """(out, F)."""
    return op.matmul(op.transpose(dy, perm=[1, 0]), _flat(layer, x))


def linear_input_gradient(_linear: Linear, layer: Layer, values: Vars, _x: Var, _y: Var, dy: Var) -> Var:
    """(N, …)."""
    return op.reshape(op.matmul(dy, values[f"{layer.name}.weight"]), constant([-1, *layer.before]))


def _flat(layer: Layer, x: Var) -> Var:
    """(N, …) -> (N, F)."""
    return op.reshape(x, constant([-1, math.prod(layer.before)]))


# ---------------------------------------- maximum ----------------------------------------


def max_pool_forward(pool: MaxPool, _layer: Layer, _values: Vars, x: Var) -> Var:
    """One MaxPool."""
    k = pool.size
    return op.max_pool(x, kernel_shape=[k, k], strides=[k, k])[0]


def max_pool_input_gradient(pool: MaxPool, layer: Layer, _values: Vars, x: Var, _y: Var, dy: Var) -> Var:
    """dy goes to the largest value of each window; of equal ones to the first, row by row, as in PyTorch.

    TensorRT has no MaxPool indices, hence windows by Reshape, and ArgMax. The places in a window are an outer axis
    there, so that what is broadcast is long; each Transpose is a simple one, and the Reshape between keeps ONNX
    Runtime from undoing both: half the time. What no window holds gets nothing.
    """
    (c, *sides), (_, h, w), size = layer.before, layer.after, pool.size
    covered, split = [h * size, w * size], constant([-1, c, h, size, w, size])
    inner, outer = constant([-1, c * h * w, size**2]), constant([-1, size**2, c, h * w])
    x = op.slice(x, constant([0, 0]), constant(covered), constant([2, 3]))
    x = op.reshape(op.transpose(op.reshape(x, split), perm=[0, 1, 2, 4, 3, 5]), inner)
    largest = op.arg_max(op.reshape(op.transpose(x, perm=[0, 2, 1]), outer), axis=1)  # (N, 1, C, H'·W')
    chosen = op.equal(largest, op.const(np.arange(size**2).reshape(-1, 1, 1)))
    dx = op.where(chosen, op.reshape(dy, constant([-1, 1, c, h * w])), scalar(0.0, dy))  # (N, size², C, H'·W')
    dx = op.transpose(op.reshape(dx, constant([-1, size**2, c * h * w])), perm=[0, 2, 1])
    dx = op.transpose(op.reshape(dx, constant([-1, c, h, w, size, size])), perm=[0, 1, 2, 4, 3, 5])
    dx = op.reshape(dx, constant([-1, c, *covered]))
    return op.pad(dx, constant([0, 0, 0, 0, 0, 0, *(side - n for side, n in zip(sides, covered, strict=True))]))


# ---------------------------------------- mean ----------------------------------------


def avg_pool_forward(pool: AvgPool, _layer: Layer, _values: Vars, x: Var) -> Var:
    """One AveragePool."""
    k = pool.size
    return op.average_pool(x, kernel_shape=[k, k], strides=[k, k])


def avg_pool_input_gradient(pool: AvgPool, layer: Layer, _values: Vars, _x: Var, _y: Var, dy: Var) -> Var:
    """Each window's share of dy, evenly; what no window holds gets nothing."""
    sides, positions, size = layer.before[1:], layer.after[1:], pool.size
    edges = [range(0, (n + 1) * size, size) for n in positions]
    return spread_evenly(dy, edges, sides)


def spread_evenly(dy: Var, edges: Sequence[Sequence[int]], sides: Sequence[int]) -> Var:
    """The gradient (N, C, rows, columns) of means over cells -> that of what was averaged, (N, C, *sides).

    `edges`: where the cells of each side begin, and where the last one ends; beyond it nothing counts. Along a row
    by a product with a 0/1 matrix, which takes a third of the time of a Gather by single elements.
    """
    rows, columns = (np.diff(along) for along in edges)
    dy = op.div(dy, op.const(np.outer(rows, columns).astype(dtype_of(dy))))
    below, beside = (side - along[-1] for side, along in zip(sides, edges, strict=True))
    places = np.pad(np.repeat(np.eye(len(columns)), columns, axis=1), ((0, 0), (0, beside)))
    dx = op.matmul(dy, op.const(places.astype(dtype_of(dy))))  # (N, C, rows, W)
    dx = op.gather(dx, op.const(np.repeat(np.arange(len(rows)), rows)), axis=2)
    return op.pad(dx, constant([0, 0, 0, 0, 0, 0, below, 0])) if below else dx


# ---------------------------------------- ReLU ----------------------------------------


def relu_forward(_relu: Relu, _layer: Layer, _values: Vars, x: Var) -> Var:
    """One Relu."""
    return op.relu(x)


def relu_input_gradient(_relu: Relu, _layer: Layer, _values: Vars, _x: Var, y: Var, dy: Var) -> Var:
    """dy where y is above zero."""
    return op.where(op.greater(y, scalar(0.0, y)), dy, scalar(0.0, y))


def leaky_relu_forward(leaky: LeakyRelu, _layer: Layer, _values: Vars, x: Var) -> Var:
    """One LeakyRelu."""
    return op.leaky_relu(x, alpha=leaky.slope)


def leaky_relu_input_gradient(leaky: LeakyRelu, _layer: Layer, _values: Vars, _x: Var, y: Var, dy: Var) -> Var:
    """dy where y is above zero, elsewhere `slope` of it."""
    return op.where(op.greater(y, scalar(0.0, y)), dy, op.mul(dy, scalar(leaky.slope, dy)))


OPERATIONS: dict[type[Op], Graphs] = {
    Conv: Graphs(conv_forward, conv_weight_gradient, conv_input_gradient),
    Local: Graphs(local_forward, local_weight_gradient, local_input_gradient),
    Linear: Graphs(linear_forward, linear_weight_gradient, linear_input_gradient),
    MaxPool: Graphs(max_pool_forward, None, max_pool_input_gradient),
    AvgPool: Graphs(avg_pool_forward, None, avg_pool_input_gradient),
    Relu: Graphs(relu_forward, None, relu_input_gradient),
    LeakyRelu: Graphs(leaky_relu_forward, None, leaky_relu_input_gradient),
}
