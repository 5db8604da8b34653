"""What is weighed on validation images when training ends: scored units in the total of class goodness, and, where
there is a classifier, its logits beside the total goodness of labels in play."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, product

import numpy as np
from msgspec import Struct

from ffruntime.core.architecture import unit_name

GRID = (0.0, 0.5, 1.0, 2.0)  # weights that are tried in every combination,
GRID_UNITS = 4  # of so many units, the topmost ones
LOGIT_GRID = (0.0, *(2.0**power for power in range(-6, 4)))  # times the ratio of the scores' deviations
BLOCK = 20_000  # scores of images and classes that are weighed by all candidates at once


class Weighing(Struct, frozen=True):
    """Weights (U,) of the units in the total, 0 where they are not scored, what they are called, and the share of
    the validation images that they answer rightly."""

    name: str
    weights: tuple[float, ...]
    accuracy: float


def weigh_units(
    goodness: np.ndarray, labels: np.ndarray, scored: Sequence[int], losses: Sequence[float]
) -> Weighing:
    """The weighing that answers most of some images rightly, the simplest of the best.

    `goodness` (N, C, U) of every class in every unit, right labels (N,), indices of the scored units, and each
    unit's training loss (U,), NaN where it has none.
    """
    found = list(candidates(goodness, scored, losses))
    weights = np.stack([row for _, row in found])  # (K, U)
    right = np.zeros(len(found))
    images = max(1, BLOCK // goodness.shape[1])
    for start in range(0, len(labels), images):
        part = slice(start, start + images)
        totals = goodness[part].astype(np.float32) @ weights.T.astype(np.float32)  # (n, C, K)
        right += (totals.argmax(1) == labels[part, None]).sum(0)
    best = int(right.argmax())  # the first of equals
    return Weighing(found[best][0], tuple(weights[best].tolist()), float(right[best] / max(len(labels), 1)))


def candidates(
    goodness: np.ndarray, scored: Sequence[int], losses: Sequence[float]
) -> Iterator[tuple[str, np.ndarray]]:
    """Names and weights (U,), the simplest first: all scored units alike; each alone, the topmost first; contiguous
    intervals of them (HCL-FF, CVPR 2026); softmax of minus their training losses (CAW-Conv, 2606.09928); each by
    what its goodness of an image's classes deviates by; and a grid of weights of the topmost ones."""
    units = goodness.shape[2]

    def weighing(chosen: Sequence[int], values: Sequence[float]) -> np.ndarray:
        row = np.zeros(units)
        row[list(chosen)] = values
        return row

    yield "all scored units alike", weighing(scored, [1.0] * len(scored))
    for unit in scored[::-1]:
        yield f"{unit_name(unit)} alone", weighing([unit], [1.0])
    for first, last in combinations(range(len(scored)), 2):
        chosen = scored[first : last + 1]
        yield f"{unit_name(chosen[0])} to {unit_name(chosen[-1])}", weighing(chosen, [1.0] * len(chosen))
    own = np.array([losses[unit] for unit in scored], dtype=float)
    if np.isfinite(own).all():
        shares = np.exp(own.min() - own)
        yield "softmax of minus the training losses", weighing(scored, (shares / shares.sum()).tolist())
    spread = goodness[:, :, list(scored)].std(axis=1, dtype=float).sum(axis=0)
    if np.all(spread > 0):
        yield "each over its deviation", weighing(scored, (spread.min() / spread).tolist())
    top = scored[-GRID_UNITS:]
    for values in product(GRID, repeat=len(top)):
        if any(values):
            name = ", ".join(
                f"{unit_name(unit)} × {value:g}" for unit, value in zip(top, values, strict=True) if value
            )
            yield name, weighing(top, values)


def weigh_logits(goodness: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> float:
    """The weight w ≥ 0 with which goodness + w · logits answers most of some images rightly, the least of the best.

    Total goodness and logits of every class (N, C), right labels (N,). Weights are tried in powers of two, around
    the one with which both deviate alike over an image's classes.
    """
    spread = float(logits.std(axis=1).sum())
    if not spread:
        return 0.0
    alike = float(goodness.std(axis=1).sum()) / spread
    weights = [float(f"{alike * share:.3g}") for share in LOGIT_GRID]
    right = [int(((goodness + weight * logits).argmax(1) == labels).sum()) for weight in weights]
    return weights[right.index(max(right))]
