"""Mode `exit`: class goodness that may stop after any scored unit, so that a sure answer costs part of a pass.

A unit answers alone, by its own goodness, and is as sure as the best class's is above the second best's; after the
last scored unit the total answers. (The weights of the total do not serve before that: where the topmost units tell
best by themselves, those of the others are 0.) `ffexport` calibrates the thresholds with the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .backend import Graph
from .core.architecture import Network, scored_units, unit_name
from .core.data import to_unit_interval
from .core.layers import TOTAL
from .embedding import class_input
from .typical import Distances


def margins(goodness: np.ndarray) -> np.ndarray:
    """How far the best class is above the second best: (N, K, …) -> (N, …); infinite of a single class."""
    if goodness.shape[1] < 2:
        return np.full((len(goodness), *goodness.shape[2:]), np.inf, goodness.dtype)
    highest = np.partition(goodness, -2, axis=1)
    return highest[:, -1] - highest[:, -2]


def sure(margins: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Which of U scored units answers each image: margins (N, U), thresholds of all but the last of them
    -> int (N,)."""
    return (~(margins <= np.array([*thresholds, -np.inf]))).argmax(1)


def scores(
    x: np.ndarray,
    units: Sequence[tuple[Graph, float | None]],
    thresholds: Sequence[float],
    labels: np.ndarray,
    typical: Sequence[Distances] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each image's goodness of the labels where it is answered, float32 (N, L), by which scored unit, int (N,), and
    with `typical`, for every scored unit, its distance to the nearest class there, (N,), else NaN.

    `x` is the first unit's input (N, …); `units` are the unit graphs up to the last scored one, each with its
    weight in the total, None of one that is not scored. A unit runs for the images that none below has answered.
    """
    limits = iter((*thresholds, -np.inf))
    result, by = np.empty((len(x), len(labels)), np.float32), np.empty(len(x), int)
    distances = np.full(len(x), np.nan)
    waiting, total, number = np.arange(len(x)), np.zeros((len(x), len(labels)), np.float32), 0
    for graph, weight in units:
        outputs = graph({"input": x})
        x, goodness, activation = outputs["output"], outputs["goodness"][:, labels], None
        if typical and weight is not None:
            activation = outputs["activation"]
        del outputs  # the activation is as large as the output
        if weight is None:
            continue
        total += np.float32(weight) * goodness
        answer = total if number == len(thresholds) else goodness
        answered = ~(margins(answer) <= next(limits))
        result[waiting[answered]], by[waiting[answered]] = answer[answered], number
        if typical and activation is not None and answered.any():
            distances[waiting[answered]] = typical[number](activation[answered])
        waiting, total, x = waiting[~answered], total[~answered], x[~answered]
        if not len(waiting):
            break
        number += 1
    return result, by, distances


def as_graph(
    network: Network,
    constants: Mapping[str, np.ndarray],
    graph: Callable[[str], Graph],
    thresholds: Sequence[float],
    labels: np.ndarray,
    typical: Sequence[Distances] | None = None,
) -> Graph:
    """Early exit as one graph: `images` uint8 (N, C, H, W) -> `scores` of the labels (N, L), `after` which scored
    unit (N,), and `distances` (N,), as `scores` has them. `constants`: what it takes of the weights beside the unit
    graphs that `graph` loads."""
    weights, scored = constants[TOTAL].tolist(), scored_units(network)
    units = [
        (graph(unit_name(index)), weights[index] if index in scored else None) for index in range(scored[-1] + 1)
    ]

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        x = class_input(network, constants, to_unit_interval(inputs["images"]))
        found, after, distances = scores(x, units, thresholds, labels, typical)
        return {"scores": found, "after": after, "distances": distances}

    return run
