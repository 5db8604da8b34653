"""A label's way into the image: torch against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from plain_labels import by_loops, case, images_and_elements

from fftrain import network as net


@given(images_and_elements())
def test_erosion_and_dilation_are_what_loops_make_of_them(case: tuple[np.ndarray, np.ndarray]) -> None:
    """To the last bit, for windows larger than the image, too."""
    images, elements = case
    expected = np.stack([by_loops(image, element[0]) for image, element in zip(images, elements, strict=True)])
    assert np.array_equal(net.morphology(torch.from_numpy(images), torch.from_numpy(elements)), expected)


@pytest.mark.parametrize("normalise", ["none", "range"])
@pytest.mark.parametrize(("placement", "channels"), [("add", 1), ("add", 3), ("channel", 1), ("morphology", 1)])
def test_colour_images_take_every_label(placement: str, channels: int, normalise: str) -> None:
    """torch embeds colour images as the document says; a pattern of one channel is for all colours."""
    described, pixels, patterns, keep, expected = case(placement, channels, normalise)
    standardised = net.to_images(torch.from_numpy(pixels), described, torch.float64)
    tensors = {"labels.keep": torch.from_numpy(keep).double()}
    theirs = net.embed(described, tensors, standardised, torch.from_numpy(patterns))
    np.testing.assert_allclose(theirs, expected, rtol=1e-5, atol=1e-6)
