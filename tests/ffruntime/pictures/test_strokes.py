"""Connected strokes and windows, beside plain references."""

from __future__ import annotations

import numpy as np
import pytest

from ffruntime.pictures.strokes import closing, connected, gap, holds_square, near


def flooded(mask: np.ndarray) -> np.ndarray:
    """Components numbered in reading order, by flooding."""
    labels, count = np.zeros(mask.shape, int), 0
    for start in map(tuple, np.argwhere(mask)):
        if labels[start]:
            continue
        count += 1
        waiting = [start]
        while waiting:
            y, x = waiting.pop()
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x] and not labels[y, x]:
                labels[y, x] = count
                waiting += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return labels


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4, 0.5, 0.7, 1.0])
def test_components_are_those_of_a_flood(share: float) -> None:
    for seed in range(5):
        mask = np.random.default_rng(seed).random((17, 23)) < share
        strokes, expected = connected(mask), flooded(mask)
        np.testing.assert_array_equal(strokes.labels, expected)
        for number in range(expected.max()):
            y, x = np.nonzero(expected == number + 1)
            assert strokes.areas[number] == len(y)
            assert strokes.boxes[number].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert len(strokes.areas) == expected.max()


def test_a_spiral_is_one_component() -> None:
    y, x = np.mgrid[:81, :81] - 40
    spiral = (np.hypot(x, y) - 4 * np.arctan2(y, x) / np.pi) % 8 < 3
    assert connected(spiral & (np.hypot(x, y) < 36)).labels.max() == flooded(spiral & (np.hypot(x, y) < 36)).max()


def test_a_closing_fills_strokes_and_leaves_what_is_wide() -> None:
    picture = np.full((40, 60), 0.9)
    picture[:, :25] = 0.4  # a shadow
    flat = picture.copy()
    picture[10:30, 40:44] = 0.1  # strokes, in the light and in the shade
    picture[20:23, 5:20] = 0.1
    np.testing.assert_array_equal(closing(picture, 9), flat)
    assert closing(picture[..., None], 9).shape == (40, 60, 1)
    np.testing.assert_array_equal(closing(picture, 3)[10:30, 40:44], 0.1)


def test_a_ramp_passes_a_closing_unchanged() -> None:
    ramp = np.linspace(0, 1, 50)[:, None] + np.zeros((50, 40))
    np.testing.assert_array_equal(closing(ramp, 15), ramp)


def test_near_and_gap_and_squares() -> None:
    mask = np.zeros((12, 20), bool)
    mask[2:6, 3:7] = mask[2:6, 12] = True
    assert near(mask, 1).sum() == 6 * 6 + 6 * 3
    strokes = connected(mask)
    assert gap(strokes, 0, 1, 9.0) == 5
    assert gap(strokes, 0, 1, 4.0) == np.inf
    assert holds_square(strokes.mask(0), 4)
    assert not holds_square(strokes.mask(0), 5)
    assert not holds_square(strokes.mask(1), 2)
