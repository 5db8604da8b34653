"""Classes told by a covariance each: against the formula, from the first example, exact in any order."""

from __future__ import annotations

import numpy as np
import pytest

from ffruntime.core.closed_form import Told, solve, tell, with_examples
from ffruntime.core.gaussians import Shrinkage
from ffruntime.core.statistics import Statistics, added, none, of

D = 5
BEGIN = Shrinkage(0.1, 40.0, 50.0)


def drawn(seed: int, count: int, spread: float, at: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((count, D)) @ rng.standard_normal((D, D)) * spread + at
    return np.clip(np.rint(mixed), -127, 127).astype(np.int8)


def shown(*groups: np.ndarray) -> Statistics:
    """Statistics of a group of examples of each class."""
    labels = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    return of(np.concatenate(groups), labels, len(groups), "each")


def told(device: Statistics, shrinkage: Shrinkage, x: np.ndarray) -> Told:
    return tell(solve(none(0, D, "each"), device, shrinkage), x)


def test_scores_are_those_of_gaussians_with_regularised_covariances() -> None:
    groups, asked = [drawn(0, 300, 9.0), drawn(1, 200, 4.0, 20)], drawn(2, 7, 9.0)
    found = told(shown(*groups), BEGIN, asked)
    scatters = [np.cov(group.T.astype(float), bias=True) * len(group) for group in groups]
    prior = 0.9 * sum(scatters) / 500 + 0.1 * 40 * np.eye(D)
    squares = []
    for k, (group, own) in enumerate(zip(groups, scatters, strict=True)):
        covariance = (own + 50 * prior) / (len(group) + 50)
        away = asked - group.mean(0)
        squares.append(np.einsum("nd,de,ne->n", away, np.linalg.inv(covariance), away) - D / len(group))
        expected = -0.5 * (squares[k] + np.linalg.slogdet(covariance)[1])
        assert found.scores[:, k] == pytest.approx(expected, rel=1e-9)
    assert found.distances == pytest.approx(np.sqrt(np.minimum(*squares).clip(0)), rel=1e-9)


def test_a_training_set_and_a_device_are_told_by_together() -> None:
    groups, asked = [drawn(0, 30, 9.0), drawn(1, 20, 4.0, 20)], drawn(2, 7, 9.0)
    whole = told(shown(*groups), BEGIN, asked)
    half = [shown(*(group[some] for group in groups)) for some in (slice(10), slice(10, None))]
    solved = solve(*half, BEGIN)
    np.testing.assert_array_equal(tell(solved, asked).scores, whole.scores)
    assert with_examples(solved, asked, np.zeros(7, int)) is None  # all is to be solved anew


def test_classes_of_one_mean_are_told_apart_by_their_spread() -> None:
    groups = drawn(3, 2500, 12.0), drawn(3, 2500, 2.0)
    device = shown(*(group[:2000] for group in groups))
    for label, group in enumerate(groups):
        assert (told(device, Shrinkage(0.01, 50.0, 10.0), group[2000:]).scores.argmax(1) == label).mean() > 0.9


def test_a_class_is_told_from_its_first_example_and_one_without_any_never() -> None:
    device = shown(drawn(4, 100, 3.0), drawn(5, 1, 3.0, 60), drawn(4, 0, 3.0))
    found = told(device, Shrinkage(0.1, 20.0, 100.0), drawn(6, 20, 3.0, 60))
    assert (found.scores.argmax(1) == 1).all()
    assert (found.scores[:, 2] == -np.inf).all()
    assert (told(none(3, D, "each"), Shrinkage(0.1, 20.0, 100.0), drawn(6, 2, 3.0)).distances == np.inf).all()


def test_the_order_of_examples_leaves_no_trace() -> None:
    x, more, asked = drawn(7, 60, 5.0), drawn(8, 9, 5.0), drawn(9, 4, 5.0)
    parts = added(shown(x[:20], more[:4]), shown(x[20:], more[4:]))
    first, other = (told(some, Shrinkage(0.1, 20.0, 20.0), asked).scores for some in (shown(x, more), parts))
    assert np.array_equal(first, other)
