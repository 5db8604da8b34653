"""Negative data on the device: which wrong labels an image is shown with."""

from __future__ import annotations

import numpy as np


def choose_negatives(
    labels: np.ndarray, scores: np.ndarray, count: int, hard: float, rng: np.random.Generator
) -> np.ndarray:
    """Wrong labels for every image: labels (B,), scores (B, P) -> (count, B).

    A share `hard` is drawn from the softmax of `scores` over the wrong labels (Hinton, section 3.3; −inf: never),
    the others evenly from all P.
    """
    b, p = scores.shape
    right = np.eye(p, dtype=bool)[labels]
    plausible = np.where(right, -np.inf, scores.astype(np.float64))
    plausible = np.exp(plausible - plausible.max(1, keepdims=True))
    even = (~right).astype(np.float64)
    chances = np.where(rng.random((count, b, 1)) < hard, _shares(plausible), _shares(even))  # (count, B, P)
    drawn = (chances.cumsum(-1) < rng.random((count, b, 1))).sum(-1)
    last = np.where(labels == p - 1, p - 2, p - 1)  # what rounding of the sum may have missed
    return np.minimum(drawn, last)


def _shares(chances: np.ndarray) -> np.ndarray:
    return chances / chances.sum(-1, keepdims=True)
