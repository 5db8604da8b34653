"""Calibration, fitted on validation images when training ends: temperatures, their error, and thresholds.

Scores become probabilities, and those are held against how often they are right: Guo, Pleiss, Sun, Weinberger: On
Calibration of Modern Neural Networks (ICML 2017). All in float64.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from msgspec import Struct

from ffruntime.core.calibration import SHARES, Calibration, Distances, OfScores, OfUnit, probabilities
from ffruntime.core.manifest import SHORTLIST

BINS = 15  # of probability
BISECTIONS = 50  # each halves the interval of log T
COLDEST, HOTTEST = 1e-6, 1e6  # limits of T, in units of the mean distance of scores from their row's best


class Bin(Struct, frozen=True):
    """Answers whose probability lies in one of the equal intervals of [0, 1]: means over `count` of them."""

    count: int
    probability: float  # 0 where there are none
    accuracy: float


def fit(
    scores: Mapping[str, np.ndarray],
    labels: np.ndarray,
    logit_weight: float,
    units: Mapping[str, np.ndarray] | None = None,
    distances: np.ndarray | None = None,
    of_units: Mapping[str, np.ndarray] | None = None,
    known: Mapping[str, OfUnit] | None = None,
) -> Calibration:
    """Calibration from validation images: their scores by trained mode (N, C), and right labels (N,).

    `logit_weight`: of logits in the totals of mode `shortlist`; `units`: of mode `exit`, by the name of each unit
    that can answer alone its own goodness (N, C), and as `exit` the total; `distances` (N,): to the nearest class,
    which what is in `scores` goes with; `of_units`: the same of each unit, which what is in `units` goes with, and
    `known`, what is stored of these.
    """
    found = {name: fit_scores(rows, labels, distances) for name, rows in scores.items()}
    if {"goodness", "classifier"} <= scores.keys():
        both = scores["goodness"] + logit_weight * scores["classifier"]
        found[SHORTLIST] = fit_scores(both, labels, distances)
    found |= {name: fit_scores(rows, labels, (of_units or {}).get(name)) for name, rows in (units or {}).items()}
    far = None if distances is None else Distances(*distances_of(distances))
    return Calibration(len(labels), SHARES, found, far, dict(known or {}))


def distances_of(distances: np.ndarray) -> tuple[float, tuple[float, ...]]:
    """The largest of some distances (N,), and for each of `SHARES` the one beyond which that share of all lies."""
    return float(distances.max()), tuple((-_at_shares(-distances)).tolist())


def fit_scores(scores: np.ndarray, labels: np.ndarray, distances: np.ndarray | None = None) -> OfScores:
    """Temperature, error and thresholds of one kind of scores (N, C), with right labels (N,), and where there are
    `distances` (N,) to the nearest class, how both share a rate of false alarms."""
    temperature, right = fit_temperature(scores, labels), scores.argmax(1) == labels
    sure, alone = probabilities(scores, temperature).max(1), None
    if distances is not None:
        worse = np.minimum(_share_below(sure), _share_below(-distances))  # at which share either turns it away
        alone = tuple(_at_shares(worse).tolist())
    return OfScores(
        temperature,
        expected_calibration_error(reliability(probabilities(scores, 1.0).max(1), right)),
        expected_calibration_error(reliability(sure, right)),
        tuple(_at_shares(sure).tolist()),
        alone,
    )


def _at_shares(values: np.ndarray) -> np.ndarray:
    """For each of `SHARES` the value that at most that share of all is below."""
    places = (np.array(SHARES) * len(values)).astype(int).clip(max=len(values) - 1)
    return np.sort(values)[places]


def _share_below(values: np.ndarray) -> np.ndarray:
    """Of each value (N,), which share of all is below it."""
    return np.searchsorted(np.sort(values), values) / len(values)


def fit_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """The T > 0 that minimises the negative log-likelihood of `labels` (N,) under softmax(scores / T), (N, C).

    The likelihood is convex in 1 / T, so its slope, E_p[score] − score of the label, is bisected. Where every
    answer is right it has no minimum, and T is the one at which the answers' mean probability is (N + 1) / (N + 2),
    that of the next one by Laplace's rule of succession. Where answers are worse than chance T is the larger of two
    limits; it is 1 where all scores of each image are equal.
    """
    logits = _below_best(scores)
    scale = -logits.mean()
    if not scale:
        return 1.0
    logits /= scale
    count, of_label = len(labels), logits[np.arange(len(labels)), labels]
    all_right = not of_label.any()
    low, high = np.log(1 / HOTTEST), np.log(1 / COLDEST)  # of 1 / T
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        shares = probabilities(logits, np.exp(-middle))
        if all_right:
            warmer = shares.max(axis=1).mean() > (count + 1) / (count + 2)
        else:
            warmer = ((shares * logits).sum(axis=1) - of_label).mean() >= 0
        low, high = (low, middle) if warmer else (middle, high)
    return float(scale * np.exp(-(low + high) / 2))


def _below_best(scores: np.ndarray) -> np.ndarray:
    """Scores less the best of their row, (N, C), at most 0; rows that hold no finite numbers become 0."""
    finite = np.isfinite(scores).all(axis=1, keepdims=True)
    logits = np.where(finite, scores, 0).astype(np.float64)
    return logits - logits.max(axis=1, keepdims=True)


def reliability(probability: np.ndarray, right: np.ndarray) -> tuple[Bin, ...]:
    """Answers with their probability (N,) in [0, 1], and whether they are right (N,), in `BINS` equal intervals.

    Interval m is ((m − 1) / M, m / M], as in Guo et al., section 2.
    """
    number = np.clip(np.ceil(probability * BINS).astype(int) - 1, 0, BINS - 1)
    counts = np.bincount(number, minlength=BINS)
    some = np.maximum(counts, 1)
    sure = np.bincount(number, probability, BINS) / some
    accurate = np.bincount(number, right, BINS) / some
    return tuple(Bin(*row) for row in zip(counts.tolist(), sure.tolist(), accurate.tolist(), strict=True))


def expected_calibration_error(bins: tuple[Bin, ...]) -> float:
    """Mean of |accuracy − probability| over the bins, each weighed by its answers (Guo et al., equation 3)."""
    answers = sum(b.count for b in bins)
    return sum(b.count * abs(b.accuracy - b.probability) for b in bins) / max(answers, 1)
