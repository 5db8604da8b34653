"""Training images changed anew in every epoch, on the training device, as uint8."""

from __future__ import annotations

import torch
from torch import Tensor

from .recipe import Augment


def augment(kind: Augment, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Every image changed in its own way: pixels (N, C, H, W) -> the same shape. The generator is a CPU's."""
    if kind.shift:
        offsets = torch.randint(2 * kind.shift + 1, (len(pixels), 2), generator=generator) - kind.shift
        pixels = shift_images(pixels, offsets.to(pixels.device))
    if kind.flip:
        chosen = torch.rand(len(pixels), generator=generator) < 0.5
        pixels = torch.where(chosen.to(pixels.device)[:, None, None, None], pixels.flip(3), pixels)
    return pixels


def shift_images(pixels: Tensor, offsets: Tensor) -> Tensor:
    """Every image moved by its own offset, what comes in is black: pixels (N, C, H, W), offsets int64 (N, 2)."""
    height, width = pixels.shape[2:]
    shifted = torch.zeros_like(pixels)
    for dy, dx in torch.unique(offsets, dim=0).tolist():
        chosen = ((offsets[:, 0] == dy) & (offsets[:, 1] == dx)).nonzero()[:, 0]
        to_y, to_x = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
        from_y, from_x = slice(max(-dy, 0), height + min(-dy, 0)), slice(max(-dx, 0), width + min(-dx, 0))
        source = pixels[chosen]
        moved = torch.zeros_like(source)
        moved[:, :, to_y, to_x] = source[:, :, from_y, from_x]
        shifted[chosen] = moved
    return shifted
