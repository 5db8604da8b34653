"""The adjoints of the operations, written with spox: from the gradient at an operation's output to that of its
parameters, and to that at its input.

x (N, *shape) is the operation's input, y its output and dy the gradient there. Only operators that ONNX Runtime,
TensorRT and TensorRT-RTX all take; N may be dynamic.
"""

from __future__ import annotations

import math

import numpy as np
import spox.opset.ai.onnx.v18 as op
from spox import Var

from ffruntime.core.architecture import Conv, Linear, Local, MaxPool, Op, Shape, op_shape

from .operations import Weights, constant, dtype_of, fields, scalar


def parameter_gradients(operation: Op, name: str, x: Var, dy: Var, shape: Shape) -> Weights:
    """Gradients of the operation's weight and bias, by their names; of an operation that has none, nothing."""
    if not isinstance(operation, Conv | Linear):
        return {}
    if isinstance(operation, Local):
        weight, summed = local_weight_gradient(operation, x, dy, shape), [0]
    elif isinstance(operation, Conv):
        weight, summed = conv_weight_gradient(operation, x, dy, shape), [0, 2, 3]
    else:
        flat = op.reshape(x, constant([-1, math.prod(shape)]))
        weight, summed = op.matmul(op.transpose(dy, perm=[1, 0]), flat), [0]  # (out, F)
    gradients = {f"{name}.weight": weight}
    if operation.bias:
        gradients[f"{name}.bias"] = op.reduce_sum(dy, constant(summed), keepdims=0)
    return gradients


def input_gradient(operation: Op, name: str, weights: Weights, x: Var, y: Var, dy: Var, shape: Shape) -> Var:
    """The gradient at the operation's input, (N, *shape)."""
    if isinstance(operation, Local):
        return local_input_gradient(operation, weights[f"{name}.weight"], dy, shape)
    if isinstance(operation, Conv):
        return conv_input_gradient(operation, weights[f"{name}.weight"], dy, shape)
    if isinstance(operation, Linear):
        return op.reshape(op.matmul(dy, weights[f"{name}.weight"]), constant([-1, *shape]))
    if isinstance(operation, MaxPool):
        return max_pool_input_gradient(operation.size, x, dy, shape)
    return op.where(op.greater(y, scalar(0.0, y)), dy, scalar(0.0, y))


def conv_weight_gradient(conv: Conv, x: Var, dy: Var, shape: Shape) -> Var:
    """Correlation of x with dy -> (out, C, k, k), as one product over all positions for each tap of the kernel.

    One Conv with the axes of batch and channels swapped (the stride as dilation) would be a smaller graph, but its
    batch is a filter's channels, which have to be static in TensorRT; it is slower, too. All that was tried is in
    `benchmarks/README.md`.
    """
    (c, _, _), (out, h, w) = shape, op_shape(conv, shape, "conv")
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


def conv_input_gradient(conv: Conv, weight: Var, dy: Var, shape: Shape) -> Var:
    """The transposed convolution: dy, with stride − 1 zeros behind each value, convolved with the turned kernel."""
    (_, *sides), (out, *positions) = shape, op_shape(conv, shape, "conv")
    k, s, p = conv.kernel, conv.stride, conv.padding
    if s > 1:
        first = np.zeros((s, 1, s))
        first[0, 0, 0] = 1
        spread = op.reshape(dy, constant([-1, out, positions[0], 1, positions[1], 1]))
        spread = op.mul(spread, op.const(first.astype(dtype_of(dy))))  # (N, out, H', s, W', s)
        dy = op.reshape(spread, constant([-1, out, *(n * s for n in positions)]))
    turned = op.const(np.arange(k)[::-1].copy())
    weight = op.gather(op.gather(weight, turned, axis=2), turned, axis=3)
    before, skipped = max(k - 1 - p, 0), max(p - (k - 1), 0)
    after = [max(skipped + side - (n * s + before - k + 1), 0) for side, n in zip(sides, positions, strict=True)]
    dx = op.conv(dy, op.transpose(weight, perm=[1, 0, 2, 3]), kernel_shape=[k, k], pads=[before, before, *after])
    return op.slice(dx, constant([skipped] * 2), constant([skipped + side for side in sides]), constant([2, 3]))


def local_weight_gradient(local: Local, x: Var, dy: Var, shape: Shape) -> Var:
    """A product over the batch at each position -> (H', W', out, C, k, k)."""
    out, h, w = op_shape(local, shape, "local")
    seen = op.transpose(fields(local, x, shape), perm=[0, 2, 1])  # (H'·W', N, C·k·k)
    gradient = op.matmul(_by_position(dy, out, h * w), seen)
    return op.reshape(gradient, constant([h, w, out, shape[0], local.kernel, local.kernel]))


def local_input_gradient(local: Local, weight: Var, dy: Var, shape: Shape) -> Var:
    """What every receptive field gets, added up where they overlap: products with a 0/1 matrix for each side."""
    (c, *sides), (out, h, w) = shape, op_shape(local, shape, "local")
    k = local.kernel
    weight = op.transpose(op.reshape(weight, constant([h * w, out, c * k * k])), perm=[0, 2, 1])
    shares = op.reshape(op.matmul(weight, _by_position(dy, out, h * w)), constant([h, w, c, k, k, -1]))
    shares = op.reshape(op.transpose(shares, perm=[5, 2, 0, 3, 1, 4]), constant([-1, c, h * k, w * k]))
    rows, columns = (_places(local, n, side, dtype_of(dy)) for n, side in zip((h, w), sides, strict=True))
    return op.matmul(op.transpose(rows, perm=[1, 0]), op.matmul(shares, columns))  # (N, C, H, W)


def _by_position(dy: Var, out: int, positions: int) -> Var:
    """dy (N, out, H', W') -> (H'·W', out, N)."""
    return op.reshape(op.transpose(dy, perm=[2, 3, 1, 0]), constant([positions, out, -1]))


def _places(local: Local, positions: int, side: int, dtype: np.dtype) -> Var:
    """(positions · k, side): 1 where a tap of a receptive field falls on a row (or column) of the image."""
    taps = np.add.outer(local.stride * np.arange(positions), np.arange(local.kernel)) - local.padding
    there = op.equal(op.const(taps.reshape(-1, 1)), op.const(np.arange(side)))
    return op.cast(there, to=dtype.type)


def max_pool_input_gradient(size: int, x: Var, dy: Var, shape: Shape) -> Var:
    """dy goes to the largest value of each window; of equal ones to the first, row by row, as in PyTorch.

    TensorRT has no MaxPool indices, hence windows by Reshape, and ArgMax. The places in a window are an outer axis
    there, so that what is broadcast is long; each Transpose is a simple one, and the Reshape between keeps ONNX
    Runtime from undoing both: half the time. What no window holds gets nothing.
    """
    (c, *sides), (h, w) = shape, (side // size for side in shape[1:])
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
