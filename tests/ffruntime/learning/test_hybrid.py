"""Hybrid images on the device: each pixel of one image or of another, through masks as in training."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ffruntime.learning.hybrid import hybrids, masks
from fftrain.hybrid import masks as training_masks


@given(batch=st.integers(2, 9), count=st.integers(1, 12), blur=st.integers(1, 10), seed=st.integers(0, 1000))
def test_every_pixel_is_of_the_image_or_of_one_other(batch: int, count: int, blur: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = rng.permutation(batch * 2 * 6 * 5).reshape(batch, 2, 6, 5).astype(np.float32)  # no value twice
    mixed = hybrids(images, count, blur, rng)
    assert mixed.shape == (count, *images.shape)
    for copy in mixed:
        own = (copy == images).all(1)  # colours of a pixel stay together
        for index, hybrid in enumerate(copy):
            partners = [other for other in range(batch) if other != index and (hybrid == images[other]).any()]
            assert len(partners) <= 1
            for other in partners:
                assert (own[index] | (hybrid == images[other]).all(0)).all()
            assert partners or own[index].all()


def test_one_image_alone_stays_as_it_is() -> None:
    image = np.random.default_rng(0).random((1, 1, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(hybrids(image, 2, 3, np.random.default_rng(0)), np.stack([image] * 2))


def test_masks_are_those_of_training() -> None:
    """As likely one at every pixel, and neighbours alike as often."""
    for blur in (3, 10):
        here = masks(4000, 28, 28, blur, np.random.default_rng(0))
        there = training_masks(4000, 28, 28, blur, torch.Generator().manual_seed(0)).numpy()
        assert np.abs(here.mean(0) - 0.5).max() < 0.05
        alike = [float((mask[:, :, 1:] == mask[:, :, :-1]).mean()) for mask in (here, there)]
        assert abs(alike[0] - alike[1]) < 0.005
