"""Thresholds of a class that came later than training: of its own stored examples, and of where its mean lies."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from counting import HOW, NEW, halves, with_statistics
from msgspec import structs
from shapes import CLASS_BUNDLE, drawn

from ffruntime.core import gaussians, statistics
from ffruntime.core.closed_form import tell
from ffruntime.core.gaussians import Gaussians, Shrinkage
from ffruntime.later import Later, Own, Whitened, ahead, later, sure
from ffruntime.learning.learner import Learner
from ffruntime.model import Model
from ffruntime.session import Session

D, NOTHING = 8, statistics.none(0, 8)
SHRINKAGE = Shrinkage(0.1, 100.0, 40.0)


def blobs(label: int, count: int, seed: int = 0) -> np.ndarray:
    """Examples int8 (count, D) of a class."""
    rng = np.random.default_rng([label, seed])
    centre = np.random.default_rng(label).normal(0, 30, D)
    return np.clip(np.rint(centre + rng.normal(0, 10, (count, D))), -127, 127).astype(np.int8)


def trained(count: int = 100) -> statistics.Statistics:
    return statistics.of(np.concatenate([blobs(k, count) for k in range(3)]), np.repeat(np.arange(3), count), 3)


def taught(training: statistics.Statistics, x: np.ndarray, label: int = 3) -> Gaussians:
    return gaussians.solve(training, statistics.of(x, np.full(len(x), label), label + 1), SHRINKAGE)


@pytest.mark.parametrize("one_by_one", [False, True])
def test_an_example_is_left_out_exactly(one_by_one: bool) -> None:
    """As if statistics were solved without it, but for the term that is left as it is."""
    training, x = trained(), blobs(3, 9)
    now = taught(training, x)
    if one_by_one:
        now = gaussians.with_examples(taught(training, x[:4]), x[4:], np.full(5, 3))
    found = gaussians.leave_one_out(now, gaussians.whitened(now, x), 3)
    for index in range(len(x)):
        without = taught(training, np.delete(x, index, 0))
        expected = gaussians.squared_distances(without, x[index : index + 1])[0]
        expected += (without.effective - now.effective) / without.counts
        np.testing.assert_allclose(found[index], expected, rtol=1e-6)


def test_distances_of_trained_classes_stay_as_long_as_they_were() -> None:
    """However much of the covariance is a device's; solved anew, or changed by rank one."""
    training, x, shown = (
        trained(),
        (blobs(3, 400) * 0.5).astype(np.int8),
        np.concatenate([blobs(k, 50, 1) for k in range(3)]),
    )
    before = gaussians.solve(training, NOTHING, SHRINKAGE)
    assert before.longer == pytest.approx(1)
    now = taught(training, x)
    one_by_one = gaussians.with_examples(taught(training, x[:300]), x[300:], np.full(100, 3))
    assert now.longer > 1.5
    assert one_by_one.longer == pytest.approx(now.longer, rel=1e-6)
    usual, found = (np.square(tell(one, shown).distances).mean() for one in (before, now))
    assert found == pytest.approx(usual, rel=0.05)


def test_limits_are_order_statistics_where_there_are_enough_examples() -> None:
    """Of 19 and the one that is answered each is as likely to be the least: at a share of 5 % it may be that."""
    own = Own(np.arange(1.0, 20.0), np.arange(19.0, 0.0, -1.0))
    found = Later(1, 0.1, np.array([6.0, 6.0]), {1: own})

    def is_sure(share: float, margin: float, distance: float, typical: float = 0.0) -> bool:
        return sure(found, 1, (0.1, 0.9), (typical, share), (margin, distance), 1.0)

    assert is_sure(0.05, 1.0, 19.0)
    assert not is_sure(0.05, 0.9, 1.0)
    assert not is_sure(0.05, 5.0, 19.1)
    assert is_sure(0.11, 2.0, 18.0)
    assert not is_sure(0.11, 1.9, 1.0)
    assert not is_sure(0.04, 1000.0, 1.0)  # too few: the trained classes' typicality
    assert is_sure(0.04, 1000.0, 1.0, typical=0.04)


def test_before_that_they_are_the_trained_classes_as_far_as_the_class_is() -> None:
    """A class as far from the next as trained ones has their limit; a nearer one a lower one, never a higher."""
    weight, temperature, least = 0.5, 2.0, 0.9
    margin = temperature / weight * math.log(9)  # what a probability of 0.9 is, of two classes

    def is_sure(away: float, at: float, probable: float = 0.5) -> bool:
        found = Later(2, weight, np.array([6.0, 6.0, away]), {})
        return sure(found, 2, (probable, least), (1.0, 0.01), (at, 1.0), temperature)

    assert is_sure(6.0, margin + 0.01)
    assert not is_sure(6.0, margin - 0.01)
    lower = 5 * (5 / 2 - (3 - margin / 6))
    assert is_sure(5.0, lower + 0.01)
    assert not is_sure(5.0, lower - 0.01)
    assert is_sure(9.0, 0.0, probable=0.9)
    assert not is_sure(math.inf, 1e9)


def test_what_is_told_of_a_class_is_of_its_examples() -> None:
    how = structs.replace(HOW, together=3)
    training, x = trained(), blobs(3, 12)
    now, kept = taught(training, x), Whitened()
    for _ in range(2):  # the second time nothing is whitened
        found = later(now, how, "goodness", np.array([0, 3]), {3: x}, kept)
        assert found
        own = found.own[3]
        squares = gaussians.leave_one_out(now, gaussians.whitened(now, x), 3)
        assert own.margins.tolist() == sorted(ahead(-squares / 2, np.full(12, 3)).tolist())
        assert (np.diff(own.distances) <= 0).all()
    found = later(now, how, "goodness", np.array([0, 3]), {}, kept)
    assert found
    assert found.own == {}
    assert later(now, how, "goodness", np.array([0, 2]), {3: x}, kept) is None


def test_a_device_keeps_the_newest_examples_of_a_class_that_came_later(tmp_path: Path) -> None:
    """Of trained classes none; as they are read and as they were added, the same, and gone with `forget`."""
    model = Model(with_statistics(CLASS_BUNDLE, tmp_path / "model.ff"), session=Session(threads=1), state=False)
    images, labels = drawn(2)
    with closing(Learner(model, tmp_path / "state")) as learner:
        learner.learn(halves(4), [NEW] * 4)
        learner.learn(images, [model.classes[label] for label in labels])
        learner.learn(halves(3, 1), [NEW] * 3)
        found = learner.model.weights.later
        expected = model.examples(np.concatenate([halves(4), halves(3, 1)]))
        assert found.keys() == {6}
        np.testing.assert_array_equal(found[6], expected)
        again = Model(model.path, session=Session(threads=1), state=tmp_path / "state").weights.later
        np.testing.assert_array_equal(again[6], expected)
        learner.forget(name=NEW)
        assert learner.model.weights.later == {}
