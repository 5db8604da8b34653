"""A label's way into the image: numpy and torch against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ffruntime.core.architecture import EPS_DIVISIVE, Conv, Image, Label, Network, Relu, Unit
from ffruntime.embedding import embed, morphology
from fftrain import network as net


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


@given(images_and_elements())
def test_erosion_and_dilation_are_what_loops_make_of_them(case: tuple[np.ndarray, np.ndarray]) -> None:
    """To the last bit, in numpy and in torch, for windows larger than the image, too."""
    images, elements = case
    expected = np.stack([by_loops(image, element[0]) for image, element in zip(images, elements, strict=True)])
    assert np.array_equal(morphology(images, elements), expected)
    assert np.array_equal(net.morphology(torch.from_numpy(images), torch.from_numpy(elements)), expected)


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


@pytest.mark.parametrize("normalise", ["none", "range"])
@pytest.mark.parametrize(("placement", "channels"), [("add", 1), ("add", 3), ("channel", 1), ("morphology", 1)])
def test_colour_images_take_every_label(placement: str, channels: int, normalise: str) -> None:
    """numpy and torch embed colour images as the document says; a pattern of one channel is for all colours."""
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
    ours = embed(described, {"labels.keep": keep}, images, patterns)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    standardised = net.to_images(torch.from_numpy(pixels), described, torch.float64)
    tensors = {"labels.keep": torch.from_numpy(keep).double()}
    theirs = net.embed(described, tensors, standardised, torch.from_numpy(patterns))
    np.testing.assert_allclose(theirs, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("placement", ["add", "channel", "morphology"])
def test_one_pattern_is_for_the_whole_batch(placement: str) -> None:
    """As the neutral one is."""
    described, random = network(placement, "none"), np.random.default_rng(4)
    images, side = random.random((4, 3, 6, 7), np.float32), (3, 3) if placement == "morphology" else (6, 7)
    weights = {"labels.keep": np.full((1, 6, 7), 0.5, np.float32)}
    pattern = np.ones((1, *side), np.float32)
    alone = np.concatenate([embed(described, weights, image[None], pattern[None]) for image in images])
    assert np.array_equal(embed(described, weights, images, pattern), alone)


@given(st.floats(0, 1, width=32))
def test_the_identity_leaves_every_image_as_it_is(keep: float) -> None:
    """Whatever K is, to the last bit: the neutral label of morphological ones."""
    described, identity = network("morphology", "none"), np.zeros((1, 3, 3), np.float32)
    identity[0, 1, 1] = 1
    images = np.random.default_rng(5).random((2, 3, 6, 7), np.float32)
    standardised = (images - np.float32(0.3)) / np.float32(0.4)
    weights = {"labels.keep": np.full((1, 6, 7), keep, np.float32)}
    assert np.array_equal(embed(described, weights, images, identity), standardised)
