"""Temperatures, reliability, expected calibration error (Guo et al. 2017), and thresholds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ffruntime.core.calibration import SHARES, check, probabilities, thresholds, typicality
from fftrain.calibration import BINS, HOTTEST, expected_calibration_error, fit, fit_temperature, reliability

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
def test_probabilities_add_up_and_keep_the_answer(scores: np.ndarray, temperature: float) -> None:
    shares = probabilities(scores, temperature)
    assert shares.sum(axis=1) == pytest.approx(1)
    assert (shares[np.arange(30), scores.argmax(axis=1)] == shares.max(axis=1)).all()


@given(SCORES, LABELS, TEMPERATURES)
def test_no_other_temperature_is_likelier(scores: np.ndarray, labels: np.ndarray, other: float) -> None:
    assume((scores[np.arange(30), labels] < scores.max(axis=1)).any())  # not all of them right
    fitted = fit_temperature(scores, labels)
    assert fitted > 0
    hottest_costs = scores.shape[1] / HOTTEST  # where answers are worse than chance, no temperature is hot enough
    assert likelihood(scores, labels, fitted) <= likelihood(scores, labels, other) + hottest_costs


@settings(max_examples=25)
@given(st.integers(0, 1000), TEMPERATURES, st.sampled_from([1e-3, 1.0, 1e4]))
def test_the_temperature_that_made_the_labels_is_found(seed: int, temperature: float, scale: float) -> None:
    """At any scale: goodness may be a mean of squares or a sum of 100,352 of them."""
    noise = np.random.default_rng(seed)
    scores = 2 * temperature * scale * noise.normal(size=(4000, 5))
    drawn = (scores / (temperature * scale) + noise.gumbel(size=scores.shape)).argmax(axis=1)
    assert fit_temperature(scores, drawn) == pytest.approx(temperature * scale, rel=0.15)


def test_a_likelihood_without_a_minimum_gives_a_finite_temperature() -> None:
    """Where all three answers are right, the next one is with probability 4 / 5 (Laplace)."""
    scores, labels = np.eye(3), np.arange(3)
    assert probabilities(scores, fit_temperature(scores, labels)).max(axis=1) == pytest.approx(4 / 5)
    worse = probabilities(scores, fit_temperature(scores, (labels + 1) % 3))  # all of them wrong
    assert worse == pytest.approx(1 / 3, abs=1e-4)
    assert fit_temperature(np.ones((3, 4)), labels) == 1


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_say_nothing(broken: float) -> None:
    scores = np.array([[0.0, broken, 1.0], [0.0, 5.0, 0.0]])
    assert probabilities(scores, 1.0)[0] == pytest.approx(1 / 3)
    assert np.isfinite(fit_temperature(scores, np.array([0, 1])))


@given(arrays(np.float64, 50, elements=st.floats(0, 1)), arrays(bool, 50))
def test_reliability_holds_every_answer_once(probability: np.ndarray, right: np.ndarray) -> None:
    bins = reliability(probability, right)
    assert len(bins) == BINS
    assert sum(b.count for b in bins) == 50
    assert sum(b.count * b.probability for b in bins) == pytest.approx(probability.sum())
    assert sum(b.count * b.accuracy for b in bins) == pytest.approx(right.sum())
    for number, b in enumerate(bins):
        assert not b.count or number / BINS - 1e-9 <= b.probability <= (number + 1) / BINS + 1e-9
    assert 0 <= expected_calibration_error(bins) <= 1


def test_calibration_error_of_a_known_case() -> None:
    """Half of the answers 0.9 sure and 50 % right, half 0.6 sure and 60 % right: (0.4 + 0) / 2."""
    probability = np.repeat([0.9, 0.6], 100)
    right = np.concatenate([np.arange(100) < 50, np.arange(100) < 60])
    assert expected_calibration_error(reliability(probability, right)) == pytest.approx(0.2)


def test_no_more_validation_images_are_unsure_than_the_rate_says() -> None:
    noise = np.random.default_rng(0)
    labels = noise.integers(0, 5, 1000)
    scores = {mode: noise.normal(size=(1000, 5)) + 3 * np.eye(5)[labels] for mode in ("goodness", "classifier")}
    unit = noise.normal(size=(1000, 5)) + 2 * np.eye(5)[labels]
    found = fit(scores, labels, 0.5, {"unit2": unit})
    check(found)
    both = scores["goodness"] + 0.5 * scores["classifier"]
    for name, shown in {**scores, "unit2": unit, "shortlist": both}.items():
        of = found.scores[name]
        sure = probabilities(shown, of.temperature).max(1)
        unsure = [(sure < thresholds(found, of, rate, both=False)[0]).mean() for rate in SHARES]
        assert all(rate - 1.01e-3 < share <= rate for rate, share in zip(SHARES, unsure, strict=True))
        assert unsure[2] <= (sure < thresholds(found, of, 0.003, both=False)[0]).mean() <= unsure[3]
        assert of.error < of.error_before
    assert found.scores["shortlist"].temperature == fit_temperature(both, labels)
    assert thresholds(found, found.scores["unit2"], 0, both=False) == (0, 0)


def test_two_criteria_together_turn_away_what_the_rate_says() -> None:
    noise = np.random.default_rng(1)
    labels, distances = noise.integers(0, 5, 4000), noise.gamma(9, size=4000)
    mean = (4 - 0.2 * distances[:, None]) * np.eye(5)[labels]  # the far ones are harder
    rows = noise.normal(size=(4000, 5)) + mean
    found = fit({"goodness": rows}, labels, 0.0, {"unit1": rows}, distances)
    check(found)
    of = found.scores["goodness"]
    sure, typical = probabilities(rows, of.temperature).max(1), typicality(found, distances)
    assert typical is not None
    assert np.corrcoef(np.argsort(np.argsort(-distances)), typical)[0, 1] > 0.99
    for rate in SHARES[2:9]:
        least, least_typical = thresholds(found, of, rate, both=True)
        assert rate / 2 <= least_typical <= rate
        unsure = ((sure < least) | (typical < least_typical)).mean()
        assert unsure == pytest.approx(rate, rel=0.25)
    assert found.scores["unit1"].alone is None  # which has no features of all units beside it
