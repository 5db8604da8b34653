"""A label's way into an image in plain loops: the referee of the device's and of the trainer's."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ffruntime.core.architecture import EPS_DIVISIVE, Conv, Image, Label, Network, Relu, Unit


def by_loops(image: np.ndarray, element: np.ndarray) -> np.ndarray:
    """Erosion or dilation of (C, H, W) by (k, k), pixel by pixel, as `docs/bundle.md` has it."""
    r, result = len(element) // 2, np.empty_like(image)
    channels, height, width = image.shape
    for c, i, j in np.ndindex(channels, height, width):
        reached = [
            image[c, i + u - r, j + v - r]
            for u, v in np.argwhere(element)
            if 0 <= i + u - r < height and 0 <= j + v - r < width
        ]
        result[c, i, j] = max(reached) if element[r, r] > 0 else min(reached)
    return result


@st.composite
def images_and_elements(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, C, H, W) of any finite float32, and an element (1, k, k) for each of them."""
    n, c, h, w = (draw(st.integers(1, most)) for most in (3, 3, 6, 6))
    size = draw(st.sampled_from([1, 3, 5]))
    images = draw(arrays(np.float32, (n, c, h, w), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
    elements = draw(arrays(np.bool_, (n, 1, size, size))).astype(np.float32)
    elements[..., size // 2, size // 2] = 1
    return images, elements * draw(arrays(np.float32, (n, 1, 1, 1), elements=st.sampled_from([-1.0, 1.0])))


def network(placement: str, normalise: str, channels: int = 1) -> Network:
    """A description of colour images with such a label."""
    label = Label(placement, 4, channels, normalise, 3 if placement == "morphology" else 1)  # type: ignore[arg-type]
    return Network(Image((3, 6, 7), 0.3, 0.4), label, (Unit((Conv(2, 3), Relu())),))


def by_hand(placement: str, keep: np.ndarray, image: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """One standardised image (3, H, W) with its label, channel by channel."""
    if placement == "channel":
        return np.stack([*image, *pattern])
    if placement == "morphology":
        changed = by_loops(image, pattern[0])
        return np.stack([keep[0] * x + (1 - keep[0]) * y for x, y in zip(image, changed, strict=True)])
    grey = len(pattern) == 1
    return np.stack([keep[0 if grey else c] * image[c] + pattern[0 if grey else c] for c in range(3)])


def case(
    placement: str, channels: int, normalise: str
) -> tuple[Network, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A network of colour images, pixels uint8 (5, 3, 6, 7), patterns, K, and what has to come out, in float64."""
    described, random = network(placement, normalise, channels), np.random.default_rng(3)
    pixels = random.integers(0, 256, (5, 3, 6, 7), np.uint8)
    images = pixels.astype(np.float32) / np.float32(255)
    if placement == "morphology":
        patterns = (random.random((5, 1, 3, 3)) < 0.4).astype(np.float32)
        patterns[..., 1, 1] = 1
        patterns *= np.float32([1, -1, 1, -1, -1]).reshape(5, 1, 1, 1)
    else:
        patterns = random.normal(size=(5, channels, 6, 7)).astype(np.float32)
    keep = random.random((channels, 6, 7)).astype(np.float32)
    expected = np.stack(
        [
            by_hand(placement, keep, (image - 0.3) / 0.4, pattern)
            for image, pattern in zip(images.astype(np.float64), patterns, strict=True)
        ]
    )
    if normalise == "range":
        low, high = (f(expected, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
        expected = (expected - low) / (high - low + EPS_DIVISIVE)
    return described, pixels, patterns, keep, expected
