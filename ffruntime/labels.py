"""A label's way into the image: the input of the first unit, in numpy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .architecture import EPS_BATCH, EPS_DIVISIVE, Network, unit_name


def to_unit_interval(pixels: np.ndarray) -> np.ndarray:
    """uint8 pixels of any shape -> float32 in [0, 1]."""
    return pixels.astype(np.float32) / np.float32(255)


def embed(
    network: Network, weights: Mapping[str, np.ndarray], images: np.ndarray, patterns: np.ndarray
) -> np.ndarray:
    """Images with a label pattern each: what the first unit receives, before its own normalisation.

    `images` (N, C, H, W) float32 in [0, 1]; `patterns` (N, P, H, W) or broadcastable to it. Returns
    (N, C', H, W) float32.
    """
    x = (images - np.float32(network.image.mean)) / np.float32(network.image.std)
    if network.label.placement == "channel":
        spread = np.broadcast_to(patterns, (len(x), *patterns.shape[-3:]))
        x = np.concatenate([x, spread], axis=1)  # (N, C + P, H, W)
    else:
        x = weights["labels.keep"] * x + patterns
    if network.label.normalise == "range":
        low, high = x.min(axis=(1, 2, 3), keepdims=True), x.max(axis=(1, 2, 3), keepdims=True)
        x = (x - low) / (high - low + np.float32(EPS_DIVISIVE))
    return x.astype(np.float32)


def first_input(
    network: Network, weights: Mapping[str, np.ndarray], images: np.ndarray, patterns: np.ndarray
) -> np.ndarray:
    """`embed`, normalised as the first unit asks for it: the `input` of `unit1.onnx`."""
    x, kind = embed(network, weights, images, patterns), network.units[0].inputs[0].normalise
    if kind == "divisive":
        return x / np.sqrt((x * x).mean(axis=(1, 2, 3), keepdims=True) + np.float32(EPS_DIVISIVE))
    if kind == "batch":
        mean, var = (weights[f"{unit_name(0)}.below.{part}"].reshape(1, -1, 1, 1) for part in ("mean", "var"))
        return (x - mean) / np.sqrt(var + np.float32(EPS_BATCH))
    return x
