"""Confidence that can be believed: scores -> probabilities, and how far those are from how often they are right.

Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks (ICML 2017). All in float64.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

BINS = 15
STEPS = 50  # of bisection: each halves the interval of log T
COLDEST, HOTTEST = 1e-6, 1e6  # limits of T, in units of the mean distance of scores from their row's best


class Bin(Struct, frozen=True):
    """Answers whose confidence lies in one of the equal intervals of [0, 1]: means over `count` of them."""

    count: int
    confidence: float  # 0 where there are none
    accuracy: float


def confidences(scores: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(scores / T): (N, C) -> probabilities (N, C). Scores that are no numbers say nothing: 1 / C each."""
    logits = _below_best(scores) / temperature
    shares = np.exp(logits)
    return shares / shares.sum(axis=1, keepdims=True)


def fit_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """The T > 0 that minimises the negative log-likelihood of `labels` (N,) under softmax(scores / T), (N, C).

    The likelihood is convex in 1 / T, so its slope, E_p[score] − score of the label, is bisected. Where it has no
    minimum (every answer right, or worse than chance) T is the nearest of two limits, and 1 where all scores of
    each image are equal.
    """
    logits = _below_best(scores)
    scale = -logits.mean()
    if not scale:
        return 1.0
    logits /= scale
    of_label = logits[np.arange(len(labels)), labels]
    low, high = np.log(1 / HOTTEST), np.log(1 / COLDEST)  # of 1 / T
    for _ in range(STEPS):
        middle = (low + high) / 2
        expected = (confidences(logits, np.exp(-middle)) * logits).sum(axis=1)
        if (expected - of_label).mean() < 0:
            low = middle
        else:
            high = middle
    return float(scale * np.exp(-(low + high) / 2))


def _below_best(scores: np.ndarray) -> np.ndarray:
    """Scores less the best of their row, (N, C), at most 0; rows that hold no numbers become 0."""
    finite = np.isfinite(scores).all(axis=1, keepdims=True)
    logits = np.where(finite, scores, 0).astype(np.float64)
    return logits - logits.max(axis=1, keepdims=True)


def reliability(confidence: np.ndarray, right: np.ndarray) -> tuple[Bin, ...]:
    """Answers with their confidence (N,) in [0, 1], and whether they are right (N,), in `BINS` equal intervals.

    Interval m is ((m − 1) / M, m / M], as in Guo et al., section 2.
    """
    number = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    counts = np.bincount(number, minlength=BINS)
    some = np.maximum(counts, 1)
    sure = np.bincount(number, confidence, BINS) / some
    accurate = np.bincount(number, right, BINS) / some
    return tuple(Bin(*row) for row in zip(counts.tolist(), sure.tolist(), accurate.tolist(), strict=True))


def expected_calibration_error(bins: tuple[Bin, ...]) -> float:
    """Mean of |accuracy − confidence| over the bins, each weighed by its answers (Guo et al., equation 3)."""
    answers = sum(b.count for b in bins)
    return sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / max(answers, 1)
