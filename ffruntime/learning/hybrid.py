"""Hybrid images, the negative data of networks that are shown no labels: as in training (`fftrain/hybrid.py`).

Regions of one image, the rest of another: right in the small, wrong in the large (Hinton, section 3.2).
"""

from __future__ import annotations

import numpy as np


def hybrids(images: np.ndarray, count: int, blur: int, rng: np.random.Generator) -> np.ndarray:
    """Of each image `count` hybrids, with another image each: (B, C, H, W) -> (count, B, C, H, W).

    Another one as far as there are others: of B = 1 the hybrid is the image.
    """
    b, _, height, width = images.shape
    place = np.argsort(order := rng.permutation(b))  # of each image in a random order
    made = []
    for step in range(1, count + 1):
        partner = images[order[(place + 1 + (step - 1) % max(1, b - 1)) % b]]
        made.append(np.where(masks(b, height, width, blur, rng)[:, None], images, partner))
    return np.stack(made)


def masks(count: int, height: int, width: int, blur: int, rng: np.random.Generator) -> np.ndarray:
    """So many masks, bool (count, height, width): random bits, blurred `blur` times with [¼ ½ ¼] in both
    directions, where edges meet, then thresholded at ½."""
    bits = rng.integers(0, 2, (count, height, width)).astype(np.float32)
    return _blurring(height, blur) @ bits @ _blurring(width, blur) > 0.5


def _blurring(size: int, times: int) -> np.ndarray:
    one = np.eye(size, dtype=np.float32)
    return np.linalg.matrix_power(one / 2 + (np.roll(one, 1, 0) + np.roll(one, -1, 0)) / 4, times)
