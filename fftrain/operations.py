"""The operations of a unit, in torch: convolution, linear and locally connected layers, pooling, ReLU."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from ffruntime.architecture import Conv, Linear, Local, MaxPool, Op

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

    One product for each row of positions: the k whole lines that it sees, with the weights in a band, as every
    column has its own. It multiplies (W + 2p) / k times as much as is asked for, and takes a fraction of the time
    of gathering each position's field.
    """
    (n, c), (rows, columns, out) = x.shape[:2], weight.shape[:3]
    p, k, wide = op.padding, op.kernel, x.shape[3] + 2 * op.padding
    lines = F.pad(x, (p, p, p, p)).permute(0, 2, 3, 1).flatten(1)  # (N, (H + 2p) · (W + 2p) · C)
    seen = lines.unfold(1, k * wide * c, op.stride * wide * c).transpose(0, 1)  # (H', N, k · (W + 2p) · C), a view
    band = weight.new_zeros(rows, k, wide, c, columns, out)
    row, line, pixel, channel, column, one = band.stride()
    fields = (row, line, pixel, channel, op.stride * pixel + column, one)  # each column's field begins a stride on
    band.as_strided((rows, k, k, c, columns, out), fields).copy_(weight.permute(0, 4, 5, 3, 1, 2))
    band = band.view(rows, k * wide * c, columns * out)
    y = torch.bmm(seen, band).view(rows, n, columns, out).permute(1, 3, 0, 2)
    return y if bias is None else y + bias
