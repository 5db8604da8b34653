"""The arithmetic of a network in torch: operations, normalisation, morphology and goodness, as pure functions.

The graph of each operation, and its gradients' graphs, stand in `ffexport`.
"""

from __future__ import annotations

import functools
import math
from itertools import product
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from ffruntime.core.architecture import (
    EPS_BATCH,
    EPS_DIVISIVE,
    AvgPool,
    Conv,
    LeakyRelu,
    Linear,
    Local,
    MaxPool,
    Op,
    Readout,
    cell_edges,
    readout_cells,
)

from .hardware import average, world

Tensors: TypeAlias = dict[str, Tensor]  # under the names of `weights.safetensors`
BATCH_MOMENTUM = 0.1  # of the newest batch in the running statistics
FP32_BLOCK = 1 << 18  # figures that a CPU converts to fp32 at once: they stay in its cache, and the copy is small


def apply_op(op: Op, name: str, tensors: Tensors, x: Tensor) -> Tensor:
    """One operation; its parameters are `tensors[name + ".weight"]` and `.bias`, cast to x's type."""
    if isinstance(op, Conv | Linear):
        weight = tensors[f"{name}.weight"].to(x.dtype)
        bias = tensors[f"{name}.bias"].to(x.dtype) if op.bias else None
        if isinstance(op, Linear):
            return F.linear(x.flatten(1), weight, bias)
        if isinstance(op, Local):
            return locally_connected(op, weight, bias, x)
        if not by_channels(x):
            weight = weight.contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, weight, bias, op.stride, op.padding)
    if isinstance(op, MaxPool):
        return F.max_pool2d(x, op.size)
    if isinstance(op, AvgPool):
        return F.avg_pool2d(x, op.size)
    return F.leaky_relu(x, op.slope) if isinstance(op, LeakyRelu) else F.relu(x)


def channels_last(x: Tensor) -> Tensor:
    """x (N, C, H, W) laid out pixel by pixel, as convolutions are fastest; vectors (N, F) as they are.

    Of one channel that has to be said by strides: torch takes it for the other layout, in which a first convolution
    takes five times as long.
    """
    if x.ndim != 4:
        return x
    _, c, h, w = x.shape
    x = x.contiguous(memory_format=torch.channels_last)
    return x.as_strided(x.shape, (h * w, 1, w, 1)) if c == 1 else x


def laid_out(x: Tensor, last: bool) -> Tensor:
    """x with its channels last, or as `by_channels` has it."""
    return channels_last(x) if last else x.contiguous()


def by_channels(x: Tensor) -> bool:
    """Whether images x (N, C, H, W) lie channel by channel in memory, on purpose: with several channels."""
    return x.ndim == 4 and x.shape[1] > 1 and x.is_contiguous()


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


def morphology(images: Tensor, elements: Tensor) -> Tensor:
    """Images (N, C, H, W), each dilated or eroded by its element (N or 1, 1, k, k): `ffruntime/embedding.py`."""
    size, (h, w) = elements.shape[-1], images.shape[-2:]
    r = size // 2
    sign = elements[..., r : r + 1, r : r + 1]
    highest = signed = sign * images  # an erosion is a dilation of −x
    padded = F.pad(signed, (r, r, r, r), value=-math.inf)
    for dy, dx in product(range(size), repeat=2):
        member = elements[..., dy : dy + 1, dx : dx + 1] != 0  # (N, 1, 1, 1)
        shifted = padded[..., dy : dy + h, dx : dx + w]
        highest = torch.where(member, torch.maximum(highest, shifted), highest)
    return sign * highest


def normalise_divisive(x: Tensor) -> Tensor:
    """x / √(mean(x²)) over each sample's neurons, at any scale of x (Hinton, section 2)."""
    return x * torch.rsqrt(mean_square(x) + EPS_DIVISIVE).to(x.dtype).view(-1, *[1] * (x.ndim - 1))


def normalise_batch(x: Tensor, mean: Tensor, var: Tensor, training: bool) -> Tensor:
    """Each channel of x (N, C, …) standardised by its running mean and variance (C,).

    In training, by those of the batch, of all processes together, and the running ones are updated.
    """
    if training and world() > 1:
        return F.batch_norm(x, *_batch_statistics(x, mean, var), training=False, eps=EPS_BATCH)
    return F.batch_norm(x, mean, var, training=training, momentum=BATCH_MOMENTUM, eps=EPS_BATCH)


def normalise_groups(x: Tensor, groups: int) -> Tensor:
    """x (N, C, …), each of `groups` equal groups of its channels standardised by itself: 1 is layer normalisation,
    C instance normalisation (Wu and He 2018)."""
    return F.group_norm(x, groups, eps=EPS_BATCH)


def _batch_statistics(x: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance per channel over the batches of all processes; the running ones are updated."""
    wide = x.to(mean.dtype).transpose(0, 1).flatten(1)  # (C, N · …)
    moments = torch.stack([wide.mean(1), wide.square().mean(1)])
    average([moments])
    count = wide.shape[1] * world()
    now, spread = moments[0], moments[1] - moments[0].square()
    mean.lerp_(now, BATCH_MOMENTUM)
    var.lerp_(spread * count / (count - 1), BATCH_MOMENTUM)
    return now, spread


def averaged(readout: Readout, y: Tensor) -> Tensor:
    """Activations (N, …) -> their averages over the readout's cells, in float32 (float64 for float64), (N, F)."""
    wide = torch.promote_types(y.dtype, torch.float32)
    shape = readout_cells(readout, tuple(y.shape[1:]))
    if y.ndim == 2 or shape == y.shape[1:]:
        return y.flatten(1).to(wide)
    (h, w), (rows, columns) = y.shape[2:], shape[1:]
    if h % rows == 0 and w % columns == 0:
        return F.avg_pool2d(y, (h // rows, w // columns)).flatten(1).to(wide)
    shares = _cell_shares((h, w), (rows, columns), y.dtype, y.device)
    pixels = y.flatten(2).transpose(1, 2)  # (N, H · W, C)
    return (shares @ pixels).transpose(1, 2).flatten(1).to(wide)


@functools.lru_cache(maxsize=64)  # asked for in every step, by every unit
def _cell_shares(
    sides: tuple[int, int], cells: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Which share of each cell a pixel is: (cells, pixels), both row by row. `core.architecture.Readout`."""
    along = []
    for side, count in zip(sides, cells, strict=True):
        edges, place = torch.tensor(cell_edges(side, count)), torch.arange(side)
        inside = ((place >= edges[:-1, None]) & (place < edges[1:, None])).to(dtype)
        along.append(inside / inside.sum(1, keepdim=True))
    return torch.kron(*along).to(device)


class _MeanSquare(torch.autograd.Function):
    """Mean of squares per sample, summed in at least fp32, with a gradient that needs no fp32 copy of x."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return _mean_square(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        return _scaled(x, gradient)


def _mean_square(x: Tensor) -> Tensor:
    accumulate = torch.float64 if x.dtype == torch.float64 else torch.float32
    dims = tuple(range(1, x.ndim))
    rows = len(x) if x.is_cuda else max(1, FP32_BLOCK // x[0].numel())
    norms = [torch.linalg.vector_norm(part, dim=dims, dtype=accumulate) for part in x.split(rows)]
    return torch.cat(norms).square() / x[0].numel()


def _scaled(x: Tensor, gradient: Tensor) -> Tensor:
    """Gradient (N,) of the mean of squares -> that of x (N, …)."""
    return x * (gradient * (2 / x[0].numel())).to(x.dtype).view(-1, *[1] * (x.ndim - 1))


def mean_square(x: Tensor) -> Tensor:
    """Goodness of activations (N, …) -> (N,): the mean of their squares, in float32 (float64 for float64)."""
    result: Tensor = _MeanSquare.apply(x)
    return result


class _ReluGoodness(torch.autograd.Function):
    """ReLU, in place, and mean of squares; the gradient, (2 / N) · y, is zero where the ReLU is."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x.relu_())
        return _mean_square(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        (y,) = ctx.saved_tensors
        return _scaled(y, gradient)


def relu_goodness(x: Tensor) -> Tensor:
    """Pre-activations (N, …), which become the activations -> their goodness (N,)."""
    goodness: Tensor = _ReluGoodness.apply(x)
    return goodness
