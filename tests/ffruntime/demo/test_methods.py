"""Methods that learn from features at once, on classes that lie apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ffruntime.core.statistics import none, of
from ffruntime.demo.methods import (
    Covariances,
    Method,
    NearestMean,
    Neighbours,
    accuracy,
    edges,
    evenly,
    waves,
)

D, CLASSES = 12, 4
LABELS = np.arange(400) % 3  # the last class is never shown
METHODS: dict[str, Callable[[], Method]] = {
    "nearest mean": lambda: NearestMean(none(CLASSES, D)),
    "neighbours": lambda: Neighbours(CLASSES, D, 60 * (D + 1)),
    "shared": lambda: Covariances(none(CLASSES, D)),
    "own": lambda: Covariances(none(CLASSES, D, "each")),
}


def drawn(seed: int) -> np.ndarray:
    centres = np.random.default_rng(0).uniform(-60, 60, (3, D))
    noise = np.random.default_rng(seed).normal(0, 12, (len(LABELS), D))
    return np.clip(np.rint(centres[LABELS] + noise), -127, 127).astype(np.int8)


@pytest.mark.parametrize("name", METHODS)
def test_classes_are_told_whatever_came_in_which_order(name: str) -> None:
    method, x = METHODS[name](), drawn(1)
    for label in (2, 0, 1):
        method.add(x[label == LABELS], LABELS[label == LABELS])
        assert (method.scores(x[:5])[:, 3] == -np.inf).all()
    assert accuracy(method, drawn(2), LABELS) > 0.97
    assert 0 < method.kept < 30_000


def test_a_training_set_is_what_a_method_begins_with() -> None:
    known = of(drawn(1), LABELS, CLASSES)
    new = np.full((3, D), 100, np.int8)
    for method in (NearestMean(known), Covariances(known), Covariances(of(drawn(1), LABELS, CLASSES, "each"))):
        assert accuracy(method, drawn(2), LABELS) > 0.97
        method.add(new, np.full(3, 3))
        assert (method.scores(new).argmax(1) == 3).all()
        assert accuracy(method, drawn(2), LABELS) > 0.97
    assert known.counts[3] == 0


def test_neighbours_keep_no_more_than_they_may_evenly() -> None:
    method = Neighbours(CLASSES, D, 60 * (D + 1))
    method.add(drawn(1)[LABELS == 0], LABELS[LABELS == 0])
    assert method.kept == 60 * (D + 1)
    method.add(drawn(1)[LABELS == 1], LABELS[LABELS == 1])
    assert method.kept == 60 * (D + 1)
    labels, draws = np.array([0] * 50 + [1] * 3), np.random.default_rng(0).random(53)
    assert np.bincount(labels[evenly(labels, draws, 10)]).tolist() == [5, 3]


def test_an_edge_is_seen_in_its_direction_and_where_it_is() -> None:
    image = np.zeros((2, 1, 28, 28), np.uint8)
    image[0, :, :, 14:], image[1, :, 14:] = 255, 255
    upright, level = edges(image).reshape(2, 7, 7, -1)
    assert upright[3].max(1).argmax() in (3, 4)
    assert upright[3, 3:5].max(0).argmax() == 0  # brighter to the right
    assert level[3:5, 3].max(0).argmax() == 3  # a quarter of the way round
    assert np.square(upright).mean() == pytest.approx(1, rel=1e-4)
    assert edges(image) == pytest.approx(edges(image // 2), abs=0.01)  # whatever the contrast


def test_waves_are_of_their_seed() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 28, 28), dtype=np.uint8)
    one = waves(pixels, 16, 8.0, 1)
    assert (one.shape, one.dtype) == ((3, 16), np.int8)
    assert np.array_equal(one, waves(pixels, 16, 8.0, 1))
    assert not np.array_equal(one, waves(pixels, 16, 8.0, 2))
