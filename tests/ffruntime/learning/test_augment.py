"""Images changed anew on the device, as in training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ffruntime.core.learning import Augment
from ffruntime.learning.draws import _moved, augment
from fftrain.dataset import Dataset
from fftrain.epoch import shift_images, turn_images


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


@pytest.mark.parametrize("offset", [(0, 0), (2, -3), (-4, 4)])
def test_images_are_moved_as_in_training(offset: tuple[int, int], dataset: Dataset) -> None:
    pixels = dataset.train.pixels[:20]
    moved = [_moved(image.numpy(), np.array(offset), 0.0, 1.0) for image in pixels]
    expected = shift_images(pixels, torch.tensor([offset] * 20))
    np.testing.assert_array_equal(np.stack(moved), expected.numpy())


@pytest.mark.parametrize(("degrees", "factor"), [(0, 1.0), (10, 1.0), (-10, 1.0), (90, 1.0), (0, 0.8), (7, 1.2)])
def test_images_are_turned_and_enlarged_as_in_training(degrees: float, factor: float, dataset: Dataset) -> None:
    """To a grey level, but for figures that touch the edge, which fades into black a little differently."""
    pixels, angle = dataset.train.pixels[:50], math.radians(degrees)
    pixels = pixels[pixels[:, :, 2:-2, 2:-2].sum((1, 2, 3)) == pixels.sum((1, 2, 3))]
    count = len(pixels)
    assert count > 20
    turned = np.stack([_moved(image.numpy(), np.zeros(2, int), angle, factor) for image in pixels])
    expected = turn_images(pixels, torch.full((count,), angle), torch.full((count,), factor)).numpy()
    assert np.abs(turned.astype(int) - expected).max() <= 1  # of 255


def test_half_of_the_images_are_mirrored() -> None:
    pixels = some(400, 1, 5, 7)
    flipped = augment(Augment(flip=True), pixels, np.random.default_rng(0))
    same = (flipped == pixels).all((1, 2, 3))
    np.testing.assert_array_equal(flipped[~same], pixels[~same][..., ::-1])
    assert 140 < same.sum() < 260
