"""A training set of which three quarters are corrupted, each in a way of its own (Tang, 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from ffruntime.core.data import Examples

KINDS = ("clean", "noisy", "dead", "random")  # each a quarter of the images


def corrupt(split: Examples, deviation: float, dead: float, seed: int) -> tuple[Examples, Tensor]:
    """The images in their order, a quarter of them, drawn by chance, of each of `KINDS`, and each one's kind (N,).

    Clean; with Gaussian noise of that `deviation`, a share of the range of a pixel, clipped to the range; with
    every pixel black at the chance `dead`; even noise instead of the image, and any label instead of its own. The
    same seed gives the same split.
    """
    generator = torch.Generator().manual_seed(seed)
    n, classes = len(split.labels), int(split.labels.max()) + 1
    kind = (torch.arange(n) * len(KINDS) // n)[torch.randperm(n, generator=generator)]
    pixels, labels = split.pixels.clone(), split.labels.clone()

    chosen = kind == KINDS.index("noisy")
    noise = 255 * deviation * torch.randn(pixels[chosen].shape, generator=generator)
    pixels[chosen] = (pixels[chosen] + noise).clamp(0, 255).round().to(torch.uint8)

    chosen = kind == KINDS.index("dead")
    pixels[chosen] *= torch.rand(pixels[chosen].shape, generator=generator) >= dead

    chosen = kind == KINDS.index("random")
    pixels[chosen] = torch.randint(256, pixels[chosen].shape, generator=generator, dtype=torch.uint8)
    labels[chosen] = torch.randint(classes, labels[chosen].shape, generator=generator)
    return Examples(pixels, labels), kind
