"""Wrong labels for negative data on the device."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ffruntime.learning.draws import choose_negatives


@given(
    patterns=st.integers(2, 12),
    batch=st.integers(0, 9),
    count=st.integers(1, 4),
    hard=st.sampled_from([0.0, 0.3, 1.0]),
    size=st.sampled_from([0.0, 1.0, 1e4]),
    seed=st.integers(0, 1000),
)
def test_never_the_right_label_and_never_one_that_is_not_there(
    patterns: int, batch: int, count: int, hard: float, size: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(patterns, size=batch)
    scores = (size * rng.standard_normal((batch, patterns))).astype(np.float32)
    wrong = choose_negatives(labels, scores, count, hard, rng)
    assert wrong.shape == (count, batch)
    assert not (wrong == labels).any()
    assert ((wrong >= 0) & (wrong < patterns)).all()


def shares(scores: list[float], hard: float, right: int = 0) -> np.ndarray:
    """How often each label is drawn, of 20,000 times."""
    many = np.tile(np.array(scores, np.float32), (20_000, 1))
    wrong = choose_negatives(np.full(20_000, right), many, 1, hard, np.random.default_rng(0))
    return np.bincount(wrong[0], minlength=len(scores)) / 20_000


def test_hard_ones_follow_the_softmax_of_the_wrong_labels() -> None:
    expected = np.array([0, 1, 2, 1]) / 4
    np.testing.assert_allclose(shares([9.0, 0.0, np.log(2), 0.0], hard=1.0), expected, atol=0.015)


def test_what_cannot_be_plausible_is_drawn_at_random_only() -> None:
    scores = [0.0, 0.0, 0.0, -np.inf, -np.inf]  # the last two: spare patterns
    np.testing.assert_allclose(shares(scores, hard=1.0), [0, 0.5, 0.5, 0, 0], atol=0.015)
    np.testing.assert_allclose(shares(scores, hard=0.0), [0, 0.25, 0.25, 0.25, 0.25], atol=0.015)
    np.testing.assert_allclose(shares(scores, hard=0.8), [0, 0.45, 0.45, 0.05, 0.05], atol=0.015)
