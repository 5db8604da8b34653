"""Classes told by a covariance each: against the formula, from the first example, exact in any order."""

from __future__ import annotations

import numpy as np
import pytest

from ffruntime.core.covariances import kept_bytes_each, scores_each, solve_each
from ffruntime.core.statistics import Statistics, added, none, of

D = 5


def drawn(seed: int, count: int, spread: float, at: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((count, D)) @ rng.standard_normal((D, D)) * spread + at
    return np.clip(np.rint(mixed), -127, 127).astype(np.int8)


def one(x: np.ndarray) -> Statistics:
    return of(x, np.zeros(len(x), np.int64), 1)


def test_scores_are_those_of_gaussians_with_regularised_covariances() -> None:
    groups = [drawn(0, 300, 9.0), drawn(1, 200, 4.0, 20)]
    found = scores_each(solve_each([one(group) for group in groups], 50.0, 0.1), drawn(2, 7, 9.0))
    scatters = [np.cov(group.T.astype(float), bias=True) * len(group) for group in groups]
    pooled = sum(scatters) / 500
    prior = 0.9 * pooled + 0.1 * np.trace(pooled) / D * np.eye(D)
    for k, (group, own) in enumerate(zip(groups, scatters, strict=True)):
        covariance = (own + 50 * prior) / (len(group) + 50)
        away = drawn(2, 7, 9.0) - group.mean(0)
        far = np.einsum("nd,de,ne->n", away, np.linalg.inv(covariance), away)
        expected = -0.5 * (far - D / len(group) + np.linalg.slogdet(covariance)[1])
        assert found[:, k] == pytest.approx(expected, rel=1e-9)


def test_classes_of_one_mean_are_told_apart_by_their_spread() -> None:
    groups = drawn(3, 2500, 12.0), drawn(3, 2500, 2.0)
    quadratics = solve_each([one(group[:2000]) for group in groups], 10.0, 0.01)
    for label, group in enumerate(groups):
        assert (scores_each(quadratics, group[2000:]).argmax(1) == label).mean() > 0.9


def test_a_class_is_told_from_its_first_example_and_one_without_any_never() -> None:
    classes = [one(drawn(4, 100, 3.0)), one(drawn(5, 1, 3.0, 60)), none(1, D)]
    found = scores_each(solve_each(classes, 100.0, 0.1), drawn(6, 20, 3.0, 60))
    assert (found.argmax(1) == 1).all()
    assert (found[:, 2] == -np.inf).all()


def test_the_order_of_examples_leaves_no_trace() -> None:
    x, more, asked = drawn(7, 60, 5.0), drawn(8, 9, 5.0), drawn(9, 4, 5.0)
    orders = added(one(more), one(x)), added(one(x[:20]), one(x[20:]), one(more))
    first, other = (scores_each(solve_each([some, one(more)], 20.0, 0.1), asked) for some in orders)
    assert np.array_equal(first, other)


def test_bytes() -> None:
    assert kept_bytes_each(136, 10) == 10 * (8 + 4 * 136 + 4 * 136 * 137 // 2) == 378_160
