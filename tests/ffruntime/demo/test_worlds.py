"""Changed images."""

from __future__ import annotations

import numpy as np
import pytest

from ffruntime.demo.worlds import CORNERS, WORLDS, change, perspective

IMAGES = np.zeros((3, 1, 28, 28), np.uint8)
IMAGES[:, :, 4:24, 13:15] = 255  # an upright stroke


@pytest.mark.parametrize("world", WORLDS)
def test_a_world_keeps_shape_and_type_and_changes_images(world: str) -> None:
    changed = change(world, IMAGES)
    assert (changed.shape, changed.dtype) == (IMAGES.shape, np.uint8)
    assert (changed != IMAGES).any(axis=(1, 2, 3)).all()


def test_worlds_do_what_they_are_called() -> None:
    assert np.array_equal(change("inverted", IMAGES), 255 - IMAGES)
    assert (change("thick", IMAGES)[0, 0, 14] > 0).sum() == 6  # two pixels more to either side
    assert 0 < change("blurred", IMAGES).max() < 255
    turned = change("rotated", IMAGES)[0, 0]
    assert turned[14, 14] > 200  # the middle stays
    assert turned[20, 7] + turned[20, 20] > 100  # and the end moves to one side
    assert turned[23, 14] < 50


def test_salt_and_pepper_is_drawn_from_the_image_itself() -> None:
    one = change("speckled", IMAGES)
    assert np.array_equal(one[0], one[1])
    assert np.array_equal(one[:1], change("speckled", IMAGES[:1]))
    noisy = (one[0] != IMAGES[0]).mean()
    assert 0.05 < noisy < 0.2
    assert set(np.unique(one)) == {0, 255}


def test_perspective_brings_corners_where_they_are_said_to_lie() -> None:
    a, b, c, d, e, f, g, h = perspective(CORNERS, (28, 28))
    for (x, y), (u, v) in zip(CORNERS, ((0, 0), (28, 0), (28, 28), (0, 28)), strict=True):
        n = g * x + h * y + 1
        assert ((a * x + b * y + c) / n, (d * x + e * y + f) / n) == pytest.approx((u, v), abs=1e-9)
    full = np.full((1, 1, 28, 28), 255, np.uint8)
    tilted = change("tilted", full)[0, 0]
    assert (tilted[:5] == 0).all()  # far away
    assert (tilted[25] > 0).sum() > (tilted[9] > 0).sum() > 10
