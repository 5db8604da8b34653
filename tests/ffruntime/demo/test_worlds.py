"""Changed images."""

from __future__ import annotations

import numpy as np
import pytest

from ffruntime.demo.teach import WORLDS, change

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
