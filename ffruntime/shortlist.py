"""Mode `shortlist`: the classifier names the labels still in play, and goodness decides between them.

A pass is one image with one label through the network. Goodness of every label costs as many as there are classes,
the classifier alone costs 1, a shortlist 1 and one for each label in play. `ffexport` calibrates the threshold with
the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Goodness = Callable[[np.ndarray, np.ndarray], np.ndarray]  # rows (M,), labels (L,) -> total goodness (M, L)


def in_play(logits: np.ndarray, threshold: float, undertrained: Sequence[int] = ()) -> np.ndarray:
    """Which labels to try: logits (N, classes) -> bool (N, classes).

    Those within `threshold` of the best logit, and all `undertrained` ones: the classifier's word on these does not
    count, so theirs is not the best logit either.
    """
    unsure = np.isin(np.arange(logits.shape[1]), undertrained)
    best = logits[:, ~unsure].max(1, keepdims=True)
    return (best - logits <= threshold) | unsure


def most_plausible(logits: np.ndarray, count: int, undertrained: Sequence[int] = ()) -> np.ndarray:
    """The `count` labels with the largest logits, or all, and the `undertrained` ones: bool (N, classes)."""
    known = logits.copy()
    known[:, undertrained] = -np.inf
    chosen = np.zeros(logits.shape, bool)
    np.put_along_axis(chosen, np.argsort(-known, axis=1, kind="stable")[:, :count], True, axis=1)
    chosen[:, undertrained] = True
    return chosen


def passes(chosen: np.ndarray) -> np.ndarray:
    """What each image costs: bool (N, classes) -> int (N,). A label alone in play needs no goodness."""
    count = chosen.sum(1)
    return np.where(count > 1, 1 + count, 1)


def scores(
    logits: np.ndarray,
    chosen: np.ndarray,
    goodness: Goodness,
    logit_weight: float = 0.0,
    undertrained: Sequence[int] = (),
) -> np.ndarray:
    """Scores (N, classes), the best of them the answer.

    Where several labels are in play, their total goodness, and `logit_weight` times their logits, those of
    `undertrained` labels being as large as the best one; the others stand below all of these, by as much as their
    logit is below the best one. Where a single label is, the logits. Images with the same labels share calls; that
    is as fast as image by image or faster, while a call for the union of several images' labels takes four times as
    long (MNIST, two labels in play, two cores).
    """
    result, known = np.array(logits, np.float32), _raised(logits, undertrained)
    groups: dict[bytes, list[int]] = {}
    for row in np.flatnonzero(chosen.sum(1) > 1).tolist():
        groups.setdefault(chosen[row].tobytes(), []).append(row)
    for rows in groups.values():
        labels = np.flatnonzero(chosen[rows[0]])
        images = np.array(rows)
        totals = goodness(images, labels)
        if logit_weight:
            totals = totals + np.float32(logit_weight) * known[images[:, None], labels]
        below = logits[images] - logits[images].max(1, keepdims=True)
        result[images] = below + totals.min(1, keepdims=True)
        result[images[:, None], labels] = totals
    return result


def _raised(logits: np.ndarray, undertrained: Sequence[int]) -> np.ndarray:
    """Logits (N, classes), those of undertrained labels as large as the best of the others."""
    if not len(undertrained):
        return logits
    raised = logits.copy()
    raised[:, undertrained] = np.delete(logits, undertrained, axis=1).max(1, keepdims=True)
    return raised
