"""Images changed anew each time they are learned from, as the recipe changed them in training."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from ..core.learning import Augment


def augment(kind: Augment, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every image changed in its own way: uint8 (N, C, H, W) -> the same shape; what comes in is black.

    Moved by up to `shift` pixels, turned by up to `rotate` degrees and made larger or smaller by up to the share
    `scale`, all about the centre, bilinear; `flip`: half of them mirrored.
    """
    shift, turn, scale = kind.shift, math.radians(kind.rotate), kind.scale
    if shift or turn or scale:
        pixels = np.stack(
            [
                _moved(image, rng.integers(-shift, shift + 1, 2), turn * one, 1 + scale * other)
                for image, (one, other) in zip(pixels, rng.uniform(-1, 1, (len(pixels), 2)), strict=True)
            ]
        )
    if kind.flip:
        mirrored = rng.random(len(pixels)) < 0.5
        pixels = np.where(mirrored[:, None, None, None], pixels[..., ::-1], pixels)
    return pixels


def _moved(image: np.ndarray, offset: np.ndarray, angle: float, factor: float) -> np.ndarray:
    """One image (C, H, W) enlarged, turned and moved, in one interpolation."""
    _, h, w = image.shape
    cos, sin = math.cos(angle) / factor, math.sin(angle) / factor
    x, y = w / 2 + offset[1], h / 2 + offset[0]  # where the centre goes
    matrix = (cos, -sin, w / 2 - cos * x + sin * y, sin, cos, h / 2 - sin * x - cos * y)
    planes = [
        Image.fromarray(plane).transform((w, h), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        for plane in image
    ]
    return np.stack([np.asarray(plane) for plane in planes])
