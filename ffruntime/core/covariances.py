"""Classes told by a covariance each: quadratic discriminant analysis of regularised covariances (Friedman 1989).

Of class statistics with a second moment of each class (`statistics.py`): a class is forgotten exactly, without its
examples. For equal bytes the dimension is about a third of what one shared moment allows. numpy alone.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from .gaussians import Shrinkage
from .statistics import Statistics, means, scatters


class Quadratics(Struct, frozen=True):
    """Classes as Gaussians, ready to tell an example's class by. Arrays are float64 and not changed any more."""

    counts: np.ndarray  # (C,): examples of each class
    centres: np.ndarray  # (C, d): means
    factors: np.ndarray  # (C, d, d): R with R Σ Rᵀ = I; 0 of a class without examples
    logarithms: np.ndarray  # (C,): log |Σ|


def solve_each(whole: Statistics, shrinkage: Shrinkage) -> Quadratics:
    """The Gaussians of statistics with a moment of each class. Time: C times the dimension's cube.

    The covariance of a class of n examples is (S + E · P) / (n + E) of its scatter S, where P is all classes'
    scatter over all examples, of which the share s is replaced by v along every axis; s, v and E are `shrinkage`'s.
    A class of few examples has nearly P, so it is told from its first example.
    """
    known, d = np.flatnonzero(whole.counts), whole.dimension
    own, n = scatters(whole)[known], whole.counts[known, None, None]
    pooled = own.sum(0) / max(int(whole.counts.sum()), 1)
    prior = (1 - shrinkage.share) * pooled + shrinkage.share * shrinkage.variance * np.eye(d)
    own += shrinkage.examples * prior
    own /= n + shrinkage.examples
    factors, logarithms = np.zeros((whole.classes, d, d)), np.zeros(whole.classes)
    lower = np.linalg.cholesky(own)
    factors[known] = np.linalg.inv(lower)
    logarithms[known] = 2 * np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(1)
    return Quadratics(whole.counts, means(whole), factors, logarithms)


def squared_distances_each(quadratics: Quadratics, x: np.ndarray) -> np.ndarray:
    """Squared Mahalanobis distance of examples int8 (N, d) to every class, by the class's own covariance, float64
    (N, C); infinite to a class without examples.

    The mean of n examples makes a squared distance longer by d / n, on average; that is taken off.
    """
    found = np.full((len(x), len(quadratics.counts)), np.inf)
    for k in np.flatnonzero(quadratics.counts):
        at = (x - quadratics.centres[k]) @ quadratics.factors[k].T
        found[:, k] = np.square(at).sum(1) - x.shape[1] / quadratics.counts[k]
    return found
