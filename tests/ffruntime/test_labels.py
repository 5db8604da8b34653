"""A label's way into the image: numpy against plain loops. (torch against them: `fftrain/test_embedding.py`.)"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_labels import by_loops, case, images_and_elements, network

from ffruntime.embedding import embed, morphology


@given(images_and_elements())
def test_erosion_and_dilation_are_what_loops_make_of_them(case: tuple[np.ndarray, np.ndarray]) -> None:
    """To the last bit, for windows larger than the image, too."""
    images, elements = case
    expected = np.stack([by_loops(image, element[0]) for image, element in zip(images, elements, strict=True)])
    assert np.array_equal(morphology(images, elements), expected)


@pytest.mark.parametrize("normalise", ["none", "range"])
@pytest.mark.parametrize(("placement", "channels"), [("add", 1), ("add", 3), ("channel", 1), ("morphology", 1)])
def test_colour_images_take_every_label(placement: str, channels: int, normalise: str) -> None:
    """numpy embeds colour images as the document says; a pattern of one channel is for all colours."""
    described, pixels, patterns, keep, expected = case(placement, channels, normalise)
    ours = embed(described, {"labels.keep": keep}, pixels.astype(np.float32) / np.float32(255), patterns)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


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
