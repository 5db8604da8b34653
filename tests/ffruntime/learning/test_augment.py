"""Images changed anew on the device, as in training."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffruntime.core.learning import Augment
from ffruntime.learning.draws import augment


def some(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


@given(
    shift=st.integers(0, 4),
    rotate=st.floats(0, 180),
    scale=st.floats(0, 0.9),
    flip=st.booleans(),
    shape=st.tuples(st.integers(1, 4), st.sampled_from([1, 3]), st.integers(5, 20), st.integers(5, 20)),
)
def test_any_change_keeps_shape_and_type_and_is_repeatable(
    shift: int, rotate: float, scale: float, flip: bool, shape: tuple[int, ...]
) -> None:
    kind = Augment(shift, rotate, scale, flip)
    pixels = some(*shape)
    changed = augment(kind, pixels, np.random.default_rng(1))
    assert (changed.shape, changed.dtype) == (pixels.shape, np.uint8)
    np.testing.assert_array_equal(changed, augment(kind, pixels, np.random.default_rng(1)))
    np.testing.assert_array_equal(pixels, some(*shape))  # what came in stays as it is


@pytest.mark.parametrize("kind", [Augment(), Augment(shift=0, rotate=0.0, scale=0.0, flip=False)])
def test_nothing_asked_nothing_changed(kind: Augment) -> None:
    pixels = some(5, 1, 28, 28)
    np.testing.assert_array_equal(augment(kind, pixels, np.random.default_rng(0)), pixels)


def test_half_of_the_images_are_mirrored() -> None:
    pixels = some(400, 1, 5, 7)
    flipped = augment(Augment(flip=True), pixels, np.random.default_rng(0))
    same = (flipped == pixels).all((1, 2, 3))
    np.testing.assert_array_equal(flipped[~same], pixels[~same][..., ::-1])
    assert 140 < same.sum() < 260
