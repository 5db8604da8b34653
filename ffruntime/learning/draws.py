"""What a step draws at random: images changed anew, and negatives. As in training, in numpy."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from ..core.learning import Augment

# --- images changed anew each time they are learned from


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


# --- negatives: wrong labels, or hybrid images for networks that are shown no labels


def choose_negatives(
    labels: np.ndarray, scores: np.ndarray, count: int, hard: float, rng: np.random.Generator
) -> np.ndarray:
    """Wrong labels for every image: labels (B,), scores (B, P) -> (count, B).

    A share `hard` is drawn from the softmax of `scores` over the wrong labels (Hinton, section 3.3; −inf: never),
    the others evenly from all P.
    """
    b, p = scores.shape
    right = np.eye(p, dtype=bool)[labels]
    plausible = np.where(right, -np.inf, scores.astype(np.float64))
    plausible = np.exp(plausible - plausible.max(1, keepdims=True))
    even = (~right).astype(np.float64)
    chances = np.where(rng.random((count, b, 1)) < hard, _shares(plausible), _shares(even))  # (count, B, P)
    drawn = (chances.cumsum(-1) < rng.random((count, b, 1))).sum(-1)
    last = np.where(labels == p - 1, p - 2, p - 1)  # what rounding of the sum may have missed
    return np.minimum(drawn, last)


def _shares(chances: np.ndarray) -> np.ndarray:
    return chances / chances.sum(-1, keepdims=True)


def hybrids(images: np.ndarray, count: int, blur: int, rng: np.random.Generator) -> np.ndarray:
    """Of each image `count` hybrids, each with another one of the batch: (B, C, H, W) -> (count, B, C, H, W).

    Regions of one image, the rest of another: right in the small, wrong in the large (Hinton, section 3.2).
    The other one has different pixels; an image that has no such partner stays as it is.
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
