"""Gaussians with one covariance, that an example changes by rank one."""

from __future__ import annotations

import numpy as np
import pytest
from counting import CLASSES, D, Some, examples
from hypothesis import given, settings

from ffruntime.core import gaussians, statistics
from ffruntime.core.closed_form import tell
from ffruntime.core.gaussians import Gaussians, Shrinkage

SHRINKAGE = Shrinkage(0.2, 100.0, 50.0)


def close(one: Gaussians, other: Gaussians, x: np.ndarray) -> None:
    """The same covariance, its trace and the same distances."""
    inverses = [some.factor.T @ (some.factor - some.rows.T @ (some.rows @ some.factor)) for some in (one, other)]
    np.testing.assert_allclose(*inverses, atol=1e-9 * np.abs(inverses[1]).max())
    assert one.trace == pytest.approx(np.trace(inverses[1]), rel=1e-9)
    assert (one.weight, one.effective) == pytest.approx((other.weight, other.effective), abs=1e-6)
    found, expected = (gaussians.squared_distances(g, x) for g in (one, other))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(examples(), examples(least=1))
def test_an_example_changes_the_covariance_by_rank_one(before: Some, more: Some) -> None:
    """Examples added one by one: as if solved anew."""
    training, (x, labels) = statistics.of(*before, CLASSES), more
    now = gaussians.solve(training, statistics.none(CLASSES, D), SHRINKAGE)
    now = gaussians.with_examples(now, x, labels)
    close(now, gaussians.solve(training, statistics.of(x, labels, CLASSES), SHRINKAGE), x)


def test_many_examples_change_the_factor() -> None:
    """So that few stand beside it; a class that is new among them, too."""
    rng = np.random.default_rng(5)
    x, labels = np.concatenate([blobs(rng, label, 60) for label in range(4)]), np.repeat(np.arange(4), 60)
    order = rng.permutation(len(x))
    now = gaussians.solve(statistics.none(2, D), statistics.none(2, D), SHRINKAGE)
    for k in order.tolist():
        now = gaussians.with_example(now, x[k], int(labels[k]))
        assert len(now.rows) <= gaussians.ROWS
    close(now, gaussians.solve(statistics.none(2, D), statistics.of(x, labels, 4), SHRINKAGE), x)


def blobs(rng: np.random.Generator, label: int, count: int) -> np.ndarray:
    centre = np.array([60, -60, 20, 0, 0, 0]) if label == 3 else np.eye(D)[label] * 90 - 30
    return np.clip(np.rint(centre + rng.normal(0, [20, 20, 20, 40, 5, 5], (count, D))), -128, 127).astype(np.int8)


def test_a_class_is_told_from_its_first_example() -> None:
    rng = np.random.default_rng(0)
    known = [blobs(rng, label, 200) for label in range(3)]
    training = statistics.of(np.concatenate(known), np.repeat(np.arange(3), 200), 3)
    shrinkage = Shrinkage(0.1, 400.0, 100.0)
    now = gaussians.solve(training, statistics.none(3, D), shrinkage)
    fresh, new = np.concatenate([blobs(rng, label, 200) for label in range(3)]), blobs(rng, 3, 201)
    right = np.repeat(np.arange(3), 200)
    assert (tell(now, fresh).scores.argmax(1) == right).mean() > 0.97
    of_four = gaussians.solve(training, statistics.none(4, D), shrinkage)
    assert np.isinf(gaussians.squared_distances(of_four, new)[:, 3]).all()
    far, near = (tell(now, x).distances for x in (new, fresh))
    assert far.mean() > 2 * near.mean()
    now = gaussians.with_example(now, new[0], 3)
    assert (tell(now, new[1:]).scores.argmax(1) == 3).mean() > 0.9
    assert (tell(now, fresh).scores.argmax(1) == right).mean() > 0.95


def test_distances_are_mahalanobis() -> None:
    """By the formula, with a covariance that is inverted."""
    rng = np.random.default_rng(1)
    x, labels = blobs(rng, 1, 40), np.arange(40) % 2
    training, device = statistics.of(x[:30], labels[:30], 2), statistics.of(x[30:], labels[30:], 2)
    now = gaussians.solve(training, device, SHRINKAGE)
    inside = statistics.scatter(training)
    share, variance, count = SHRINKAGE.share, SHRINKAGE.variance, SHRINKAGE.examples
    covariance = count * ((1 - share) * inside / 30 + share * variance * np.eye(D))
    covariance = (covariance + statistics.scatter(statistics.added(training, device)) - inside) / (count + 10)
    off = x[:, None].astype(float) - statistics.means(statistics.added(training, device))
    squares = np.einsum("nci,ij,ncj->nc", off, np.linalg.inv(covariance), off)
    filled = np.trace(np.linalg.inv(covariance) @ (covariance * 60 - 10 * variance * np.eye(D))) / 50
    expected = squares - filled / now.counts
    np.testing.assert_allclose(gaussians.squared_distances(now, x), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(tell(now, x).scores, -expected / 2, rtol=1e-9, atol=1e-9)
