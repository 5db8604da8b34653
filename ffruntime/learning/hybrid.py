"""Hybrid images, the negative data of networks that are shown no labels: as in training (`fftrain/hybrid.py`).

Regions of one image, the rest of another: right in the small, wrong in the large (Hinton, section 3.2).
"""

from __future__ import annotations

import numpy as np


def hybrids(images: np.ndarray, count: int, blur: int, rng: np.random.Generator) -> np.ndarray:
    """Of each image `count` hybrids, each with another one of the batch: (B, C, H, W) -> (count, B, C, H, W).

    Another one is one that looks different; an image of which there are none stays as it is.
    """
    b, _, height, width = images.shape
    kinds = np.array([hash(image.tobytes()) for image in images])
    different = kinds[:, None] != kinds
    made = []
    for _ in range(count):
        partner = images[(rng.random((b, b)) * different).argmax(1)]
        mixed = np.where(masks(b, height, width, blur, rng)[:, None], images, partner)
        made.append(np.where(different.any(1)[:, None, None, None], mixed, images))
    return np.stack(made)


def masks(count: int, height: int, width: int, blur: int, rng: np.random.Generator) -> np.ndarray:
    """So many masks, bool (count, height, width): random bits, blurred `blur` times with [¼ ½ ¼] in both
    directions, where edges meet, then thresholded at ½."""
    bits = rng.integers(0, 2, (count, height, width)).astype(np.float32)
    return _blurring(height, blur) @ bits @ _blurring(width, blur) > 0.5


def _blurring(size: int, times: int) -> np.ndarray:
    one = np.eye(size, dtype=np.float32)
    return np.linalg.matrix_power(one / 2 + (np.roll(one, 1, 0) + np.roll(one, -1, 0)) / 4, times)
