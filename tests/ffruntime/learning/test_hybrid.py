"""Hybrid images on the device: each pixel of one image or of another, through masks as in training."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffruntime.learning import draws as module
from ffruntime.learning.draws import hybrids, masks


@given(
    batch=st.integers(2, 9),
    copies=st.integers(1, 2),
    count=st.integers(1, 4),
    blur=st.integers(1, 10),
    seed=st.integers(0, 1000),
)
def test_every_pixel_is_of_the_image_or_of_one_that_looks_different(
    batch: int, copies: int, count: int, blur: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    images = rng.permutation(batch * 2 * 6 * 5).reshape(batch, 2, 6, 5).astype(np.float32)  # no value twice
    images = np.concatenate([images] * copies)
    with pytest.MonkeyPatch.context() as patch:
        drawn: list[np.ndarray] = []
        patch.setattr(module, "masks", lambda *of: drawn.append(masks(*of)) or drawn[-1])
        mixed = hybrids(images, count, blur, rng)
    assert mixed.shape == (count, *images.shape)
    for copy, mask in zip(mixed, drawn, strict=True):
        for index, picture in enumerate(copy):
            (other,) = {n for n in range(batch) if n != index % batch and (picture == images[n]).any()} or {None}
            expected = images[index] if other is None else np.where(mask[index], images[index], images[other])
            np.testing.assert_array_equal(picture, expected)
            assert (other is None) == mask[index].all()


def test_partners_are_drawn_evenly() -> None:
    images = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1).repeat(8, 2).repeat(8, 3)
    mixed = hybrids(images, 3000, 3, np.random.default_rng(0))[:, 0]
    partners = [float(one[one != 0][0]) for one in mixed if one.any()]
    np.testing.assert_allclose(np.bincount(np.array(partners, int))[1:] / len(partners), 1 / 3, atol=0.03)


def test_what_looks_alike_stays_as_it_is() -> None:
    image = np.random.default_rng(0).random((1, 1, 8, 8)).astype(np.float32).repeat(3, 0)
    np.testing.assert_array_equal(hybrids(image, 2, 3, np.random.default_rng(0)), np.stack([image] * 2))
