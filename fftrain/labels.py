"""Label patterns: one for every class, and spare ones for classes that are not known yet."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ffruntime.errors import UsageError

from .recipe import Fourier, Patterns, RandomPatterns

# Scodellaro et al., set 1, as (ky, kx): four orientations × three frequencies; the last two are spare.
FOURIER_MODES = (
    (0, 6),
    (2, 0),
    (0, 4),
    (0, 2),
    (6, 0),
    (4, 0),
    (1, -1),
    (2, -2),
    (2, 2),
    (1, 1),
    (3, 3),
    (3, -3),
)


def fourier_waves(height: int, width: int) -> Tensor:
    """Set 1 of Scodellaro et al.: (12, 1, height, width), each one 2-D Fourier mode in [0, 1]."""
    y = torch.arange(height, dtype=torch.float64)[:, None] / height
    x = torch.arange(width, dtype=torch.float64)[None, :] / width
    waves = [(1 + torch.cos(2 * math.pi * (ky * y + kx * x))) / 2 for ky, kx in FOURIER_MODES]
    return torch.stack(waves)[:, None].float()  # (12, 1, H, W)


def make_patterns(kind: Patterns, classes: int, height: int, width: int) -> dict[str, Tensor]:
    """The label tensors of a bundle: `labels.patterns` (P, 1, H, W), classes first, then the spare ones;
    `labels.neutral` (1, H, W), the mean of the classes' patterns; `labels.keep` (1, H, W), the share of the image
    that is kept where patterns are added: 1 − K beside waves, all of it beside noise.
    """
    if isinstance(kind, Fourier):
        patterns = kind.intensity * fourier_waves(height, width)
        if classes > len(patterns):
            raise UsageError(f"the fourier set has {len(patterns)} patterns, and there are {classes} classes")
        keep = {"labels.keep": torch.full((1, height, width), 1 - kind.intensity)}
    elif isinstance(kind, RandomPatterns):
        generator = torch.Generator().manual_seed(kind.seed)
        patterns = torch.randn(classes + kind.spare, 1, height, width, generator=generator)
        keep = {"labels.keep": torch.ones(1, height, width)}
    else:
        raise NotImplementedError
    return {"labels.patterns": patterns, "labels.neutral": patterns[:classes].mean(0), **keep}
