"""Mode `exit`: class goodness that may stop after any scored unit, so that a sure answer costs part of a pass.

After each scored unit the total so far is the weighted sum of these units' goodness, and how sure it is, the best
class's minus the second best's. `ffexport` calibrates the thresholds with the same functions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .backend import Graph


def margins(total: np.ndarray) -> np.ndarray:
    """How far the best class is above the second best: totals (N, K, …) -> (N, …); infinite of a single class."""
    if total.shape[1] < 2:
        return np.full((len(total), *total.shape[2:]), np.inf, total.dtype)
    highest = np.partition(total, -2, axis=1)
    return highest[:, -1] - highest[:, -2]


def sure(margins: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """After which of U scored units each image is answered: margins (N, U), thresholds of all but the last of them
    -> int (N,)."""
    return (~(margins <= np.array([*thresholds, -np.inf]))).argmax(1)


def scores(
    x: np.ndarray, units: Sequence[tuple[Graph, float | None]], thresholds: Sequence[float], labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Each image's totals of the labels when it is answered, float32 (N, L), and after which scored unit, int (N,).

    `x` is the first unit's input (N, …); `units` are the unit graphs up to the last scored one, each with its
    weight in the total, None of one that is not scored. A unit runs for the images that none below has answered.
    """
    limits = iter((*thresholds, -np.inf))
    result, after = np.empty((len(x), len(labels)), np.float32), np.empty(len(x), int)
    waiting, total, number = np.arange(len(x)), np.zeros((len(x), len(labels)), np.float32), 0
    for graph, weight in units:
        outputs = graph({"input": x})
        x, goodness = outputs["output"], outputs.get("goodness")
        del outputs  # the activation is as large as the output
        if weight is None or goodness is None:  # a unit that is scored has a readout
            continue
        total += np.float32(weight) * goodness[:, labels]
        answered = ~(margins(total) <= next(limits))
        result[waiting[answered]], after[waiting[answered]] = total[answered], number
        waiting, total, x = waiting[~answered], total[~answered], x[~answered]
        if not len(waiting):
            break
        number += 1
    return result, after
