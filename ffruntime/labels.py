"""A label's way into the image: the input of the first unit, in numpy."""

from __future__ import annotations

import numpy as np

from .architecture import Network


def to_unit_interval(pixels: np.ndarray) -> np.ndarray:
    """uint8 pixels of any shape -> float32 in [0, 1]."""
    return pixels.astype(np.float32) / np.float32(255)


def embed(network: Network, images: np.ndarray, patterns: np.ndarray, keep: np.ndarray | float = 1.0) -> np.ndarray:
    """Images with a label pattern each: the input of the first unit.

    `images` (N, C, H, W) float32 in [0, 1]; `patterns` (N, P, H, W) or broadcastable to it; `keep`
    (P, H, W), the share of the image that is kept where patterns are added. Returns (N, C', H, W) float32.
    """
    x = (images - np.float32(network.image.mean)) / np.float32(network.image.std)
    if network.label.placement == "channel":
        spread = np.broadcast_to(patterns, (len(x), *patterns.shape[-3:]))
        x = np.concatenate([x, spread], axis=1)  # (N, C + P, H, W)
    else:
        x = np.multiply(x, keep) + patterns
    if network.label.normalise == "range":
        low, high = x.min(axis=(1, 2, 3), keepdims=True), x.max(axis=(1, 2, 3), keepdims=True)
        x = (x - low) / (high - low)
    return x.astype(np.float32)
