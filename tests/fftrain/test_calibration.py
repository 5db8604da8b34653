"""Confidence: temperatures, reliability and expected calibration error (Guo et al. 2017)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fftrain.evaluation import BINS, confidences, expected_calibration_error, fit_temperature, reliability

SCORES = arrays(np.float64, (30, 4), elements=st.floats(-50, 50, width=32))
LABELS = arrays(np.int64, 30, elements=st.integers(0, 3))
TEMPERATURES = st.floats(0.05, 20)


def likelihood(scores: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    logits = scores / temperature
    shift = logits.max(axis=1)
    return float(
        (np.log(np.exp(logits - shift[:, None]).sum(1)) + shift - logits[np.arange(len(labels)), labels]).mean()
    )


@given(SCORES, TEMPERATURES)
def test_confidences_are_probabilities_and_keep_the_answer(scores: np.ndarray, temperature: float) -> None:
    shares = confidences(scores, temperature)
    assert shares.sum(axis=1) == pytest.approx(1)
    assert (shares[np.arange(30), scores.argmax(axis=1)] == shares.max(axis=1)).all()


@given(SCORES, LABELS, TEMPERATURES)
def test_no_other_temperature_is_likelier(scores: np.ndarray, labels: np.ndarray, other: float) -> None:
    fitted = fit_temperature(scores, labels)
    assert fitted > 0
    assert likelihood(scores, labels, fitted) <= likelihood(scores, labels, other) + 1e-6


@settings(max_examples=25)
@given(st.integers(0, 1000), TEMPERATURES, st.sampled_from([1e-3, 1.0, 1e4]))
def test_the_temperature_that_made_the_labels_is_found(seed: int, temperature: float, scale: float) -> None:
    """At any scale: goodness may be a mean of squares or a sum of 100,352 of them."""
    noise = np.random.default_rng(seed)
    scores = 2 * temperature * scale * noise.normal(size=(4000, 5))
    drawn = (scores / (temperature * scale) + noise.gumbel(size=scores.shape)).argmax(axis=1)
    assert fit_temperature(scores, drawn) == pytest.approx(temperature * scale, rel=0.15)


def test_a_likelihood_without_a_minimum_gives_a_finite_temperature() -> None:
    scores, labels = np.eye(3), np.arange(3)
    assert confidences(scores, fit_temperature(scores, labels)).max(axis=1) == pytest.approx(1)  # all of them right
    worse = confidences(scores, fit_temperature(scores, (labels + 1) % 3))  # all of them wrong
    assert worse == pytest.approx(1 / 3, abs=1e-4)
    assert fit_temperature(np.ones((3, 4)), labels) == 1


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_say_nothing(broken: float) -> None:
    scores = np.array([[0.0, broken, 1.0], [0.0, 5.0, 0.0]])
    assert confidences(scores, 1.0)[0] == pytest.approx(1 / 3)
    assert np.isfinite(fit_temperature(scores, np.array([0, 1])))


@given(arrays(np.float64, 50, elements=st.floats(0, 1)), arrays(bool, 50))
def test_reliability_holds_every_answer_once(confidence: np.ndarray, right: np.ndarray) -> None:
    bins = reliability(confidence, right)
    assert len(bins) == BINS
    assert sum(b.count for b in bins) == 50
    assert sum(b.count * b.confidence for b in bins) == pytest.approx(confidence.sum())
    assert sum(b.count * b.accuracy for b in bins) == pytest.approx(right.sum())
    for number, b in enumerate(bins):
        assert not b.count or number / BINS - 1e-9 <= b.confidence <= (number + 1) / BINS + 1e-9
    assert 0 <= expected_calibration_error(bins) <= 1


def test_calibration_error_of_a_known_case() -> None:
    """Half of the answers 0.9 sure and 50 % right, half 0.6 sure and 60 % right: (0.4 + 0) / 2."""
    confidence = np.repeat([0.9, 0.6], 100)
    right = np.concatenate([np.arange(100) < 50, np.arange(100) < 60])
    assert expected_calibration_error(reliability(confidence, right)) == pytest.approx(0.2)
