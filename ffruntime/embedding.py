"""What the first unit receives, in numpy: the image, with a label in it or without, normalised."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .core.architecture import EPS_BATCH, EPS_DIVISIVE, Network
from .core.layers import tensors


def embed(
    network: Network, weights: Mapping[str, np.ndarray], images: np.ndarray, patterns: np.ndarray
) -> np.ndarray:
    """Images with a label pattern each: what the first unit receives, before its own normalisation.

    `images` (N, C, H, W) float32 in [0, 1]; `patterns` (N, *pattern_shape) or broadcastable to it.
    Returns (N, C', H, W) float32.
    """
    x = standardised(network, images)
    if network.label.placement == "top":
        pass  # the pattern meets the topmost unit, not the image
    elif network.label.placement == "channel":
        spread = np.broadcast_to(patterns, (len(x), *patterns.shape[-3:]))
        x = np.concatenate([x, spread], axis=1)  # (N, C + P, H, W)
    elif network.label.placement == "morphology":
        changed = morphology(x, patterns)
        x = changed + weights["labels.keep"] * (x - changed)  # exactly x where the element changes nothing
    else:
        x = weights["labels.keep"] * x + patterns
    if network.label.normalise == "range":
        low, high = x.min(axis=(1, 2, 3), keepdims=True), x.max(axis=(1, 2, 3), keepdims=True)
        x = (x - low) / (high - low + np.float32(EPS_DIVISIVE))
    return x.astype(np.float32)


def morphology(images: np.ndarray, elements: np.ndarray) -> np.ndarray:
    """Images (N, C, H, W), each dilated or eroded by its own flat structuring element, channel by channel.

    `elements` (N or 1, 1, k, k), k odd: +1 at the offsets of a dilation, −1 at those of an erosion, 0 elsewhere.
    The centre belongs to every element, and its sign says which of the two it is. Dilation at p is the maximum
    over p + offsets, erosion the minimum; offsets that fall outside the image do not count. This is
    our own definition of morphological labels: Scodellaro et al. (2025) have some, whose formula is not known here.
    """
    size, (h, w) = elements.shape[-1], images.shape[-2:]
    r = size // 2
    sign = elements[..., r : r + 1, r : r + 1]
    highest = signed = sign * images  # an erosion is a dilation of −x
    padded = np.pad(signed, ((0, 0), (0, 0), (r, r), (r, r)), constant_values=-np.inf)
    for dy, dx in np.ndindex(size, size):
        member = elements[..., dy : dy + 1, dx : dx + 1] != 0  # (N, 1, 1, 1)
        shifted = padded[..., dy : dy + h, dx : dx + w]
        highest = np.where(member, np.maximum(highest, shifted), highest)
    return sign * highest


def standardised(network: Network, images: np.ndarray) -> np.ndarray:
    """Images float32 (N, C, H, W) in [0, 1], minus the mean and by the standard deviation of training images."""
    x: np.ndarray = (images - np.float32(network.image.mean)) / np.float32(network.image.std)
    return x


def first_input(
    network: Network, weights: Mapping[str, np.ndarray], images: np.ndarray, patterns: np.ndarray
) -> np.ndarray:
    """`embed`, normalised as the first unit asks for it: the `input` of `unit1.onnx`."""
    return _normalised(network, weights, embed(network, weights, images, patterns))


def class_input(network: Network, weights: Mapping[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """The same with class goodness, where no label is in the image."""
    return _normalised(network, weights, standardised(network, images))


def _normalised(network: Network, weights: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """x (N, C, H, W), as the first unit's input is normalised (`core.architecture.Input`)."""
    inputs = network.units[0].inputs[0]
    if inputs.normalise == "none":
        return x
    if inputs.normalise == "divisive":
        return x / np.sqrt((x * x).mean(axis=(1, 2, 3), keepdims=True) + np.float32(EPS_DIVISIVE))
    if inputs.normalise == "batch":
        own = [t.name for t in tensors(network) if t.unit == 0 and t.role in ("mean", "variance")]
        mean, variance = (weights[name].reshape(1, -1, 1, 1) for name in own)
        return (x - mean) / np.sqrt(variance + np.float32(EPS_BATCH))
    groups = {"layer": 1, "group": inputs.groups, "instance": x.shape[1]}[inputs.normalise]
    parts = x.reshape(len(x), groups, -1)
    parts = parts - parts.mean(2, keepdims=True)
    parts /= np.sqrt((parts * parts).mean(2, keepdims=True) + np.float32(EPS_BATCH))
    return parts.reshape(x.shape)
