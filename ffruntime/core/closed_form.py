"""From class statistics to scores, whichever moments they have: solved once, then asked for any examples.

With a moment that classes share they are Gaussians of one covariance (`gaussians.py`), with one of each, of a
covariance each (`covariances.py`).
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

from .covariances import Quadratics, solve_each, squared_distances_each
from .gaussians import Gaussians, Shrinkage, squared_distances
from .gaussians import solve as solve_shared
from .gaussians import with_examples as with_examples_shared
from .statistics import Statistics, added

Solved: TypeAlias = Gaussians | Quadratics


class Told(NamedTuple):
    """What class statistics tell of examples, float64."""

    scores: np.ndarray  # (N, C): log-likelihood but for what all classes have in common; −∞ of one without examples
    distances: np.ndarray  # (N,): of Mahalanobis, to the nearest class, as long as when training ended


def solve(training: Statistics, device: Statistics, shrinkage: Shrinkage) -> Solved:
    """The classes of a training set's statistics and a device's, which have the same kind of moment."""
    if training.kind == "each":
        return solve_each(added(training, device), shrinkage)
    return solve_shared(training, device, shrinkage)


def with_examples(solved: Solved, x: np.ndarray, labels: np.ndarray) -> Solved | None:
    """The same with more examples int8 (N, d) of a device, with their labels (N,); None where all is to be solved
    anew: with a covariance of each class an example changes what every class begins with."""
    return None if isinstance(solved, Quadratics) else with_examples_shared(solved, x, labels)


def tell(solved: Solved, x: np.ndarray) -> Told:
    """Scores of every class, and distances, of examples int8 (N, d)."""
    if isinstance(solved, Quadratics):
        squares = squared_distances_each(solved, x)
        scores = -0.5 * (squares + solved.logarithms)
    else:
        squares = squared_distances(solved, x)
        scores, squares = -0.5 * squares, squares / solved.longer
    return Told(scores, np.sqrt(np.maximum(squares.min(1), 0)))
