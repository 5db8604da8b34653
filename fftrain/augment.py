"""Training images changed anew in every epoch, on the training device, as uint8."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .recipe import Augment

BLOCK = 5_000  # images turned at once: they are float32 meanwhile


def augment(kind: Augment, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Every image changed in its own way: pixels (N, C, H, W) -> the same shape. The generator is a CPU's."""
    if kind.shift:
        offsets = torch.randint(2 * kind.shift + 1, (len(pixels), 2), generator=generator) - kind.shift
        pixels = shift_images(pixels, offsets.to(pixels.device))
    if kind.rotate or kind.scale:
        chances = 2 * torch.rand(len(pixels), 2, generator=generator) - 1  # (N, 2) in [-1, 1)
        angles, factors = math.radians(kind.rotate) * chances[:, 0], 1 + kind.scale * chances[:, 1]
        pixels = turn_images(pixels, angles.to(pixels.device), factors.to(pixels.device))
    if kind.flip:
        chosen = torch.rand(len(pixels), generator=generator) < 0.5
        pixels = torch.where(chosen.to(pixels.device)[:, None, None, None], pixels.flip(3), pixels)
    return pixels


def turn_images(pixels: Tensor, angles: Tensor, factors: Tensor) -> Tensor:
    """Every image turned by its own angle and enlarged by its own factor about its centre, bilinear, what comes in
    is black: pixels uint8 (N, C, H, W), angles in radians (N,), factors (N,)."""
    cos, sin, zero = angles.cos() / factors, angles.sin() / factors, torch.zeros_like(angles)
    matrices = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    turned = torch.empty_like(pixels)
    for start in range(0, len(pixels), BLOCK):
        part = slice(start, start + BLOCK)
        grid = F.affine_grid(matrices[part], list(pixels[part].shape), align_corners=False)
        turned[part] = F.grid_sample(pixels[part].float(), grid, align_corners=False).round().to(torch.uint8)
    return turned


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
