"""The operations of a unit, in torch: convolution, linear and locally connected layers, pooling, ReLU."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from ffruntime.core.architecture import Conv, Linear, Local, MaxPool, Op

Tensors: TypeAlias = dict[str, Tensor]  # under the names of `weights.safetensors`


def apply_op(op: Op, name: str, tensors: Tensors, x: Tensor) -> Tensor:
    """One operation; its parameters are `tensors[name + ".weight"]` and `.bias`, cast to x's type."""
    if isinstance(op, Conv | Linear):
        weight = tensors[f"{name}.weight"].to(x.dtype)
        bias = tensors[f"{name}.bias"].to(x.dtype) if op.bias else None
        if isinstance(op, Linear):
            return F.linear(x.flatten(1), weight, bias)
        if isinstance(op, Local):
            return locally_connected(op, weight, bias, x)
        return F.conv2d(x, weight.contiguous(memory_format=torch.channels_last), bias, op.stride, op.padding)
    if isinstance(op, MaxPool):
        return F.max_pool2d(x, op.size)
    return F.relu(x)


def locally_connected(op: Local, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """x (N, C, H, W), weight (H', W', out, C, k, k), bias (out, H', W') -> (N, out, H', W').

    One product for each row of positions and each block of b columns: the k lines of the pixels that the block
    sees, with the weights in a band, as every column has its own. It multiplies (stride · (b − 1) + k) / k times as
    much as is asked for, and takes a fraction of the time of gathering each position's field.
    """
    (n, c), (rows, columns, out) = x.shape[:2], weight.shape[:3]
    p, k, stride = op.padding, op.kernel, op.stride
    blocks = max(1, round(columns / (1.5 * k)))
    b = -(-columns // blocks)
    wide, surplus = stride * (b - 1) + k, b * blocks - columns
    if surplus:  # columns that are cut off again
        weight = F.pad(weight, (*[0] * 8, 0, surplus))
    missing = max(0, stride * b * (blocks - 1) + wide - (x.shape[3] + 2 * p))
    lines = F.pad(x, (p, p + missing, p, p)).unfold(3, wide, stride * b)[:, :, :, :blocks]
    lines = lines.permute(3, 0, 2, 4, 1).flatten(2)  # (blocks, N, (H + 2p) · wide · C)
    seen = lines.unfold(2, k * wide * c, stride * wide * c).permute(2, 0, 1, 3)  # (H', blocks, N, k · wide · C)
    band = weight.new_zeros(rows, blocks, k, wide, c, b, out)
    row, block, line, pixel, channel, column, one = band.stride()
    fields = (row, block, line, pixel, channel, stride * pixel + column, one)  # each column's begins a stride on
    own = weight.view(rows, blocks, b, out, c, k, k).permute(0, 1, 5, 6, 4, 2, 3)
    band.as_strided(own.shape, fields).copy_(own)
    y = torch.bmm(seen.flatten(0, 1), band.view(rows * blocks, k * wide * c, b * out))
    y = y.view(rows, blocks, n, b, out).permute(2, 4, 0, 1, 3).reshape(n, out, rows, blocks * b)[..., :columns]
    return y if bias is None else y + bias
