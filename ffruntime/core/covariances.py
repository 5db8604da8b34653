"""Classes told by a covariance each: quadratic discriminant analysis of regularised covariances (Friedman 1989).

Every class has `Statistics` of its own, a count, a sum and a second moment of integers, which are exact to add and
to take back in any order, as those that all classes share; a class is forgotten exactly. For equal bytes the
dimension is about a third of what one shared moment allows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from .statistics import Statistics, scatter


class Quadratics(Struct, frozen=True):
    """Classes as Gaussians, ready to tell an example's class by. Arrays are float64."""

    known: np.ndarray  # (C,) bool: which have examples
    centres: np.ndarray  # (C, d): means
    factors: np.ndarray  # (C, d, d): R with R Σ Rᵀ = I
    offsets: np.ndarray  # (C,): −½ log |Σ|, and half of what a mean of n examples makes distances longer


def solve_each(classes: Sequence[Statistics], examples: float, share: float) -> Quadratics:
    """The Gaussians of classes, the statistics of each with one row (1, d). Time: C times the dimension's cube.

    The covariance of a class of n examples is (S + `examples` · P) / (n + `examples`) of its scatter S, where P is
    all classes' scatter over all examples, of which `share` is spread evenly over the axes. A class of few examples
    has nearly P, so it is told from its first example. The mean of n examples makes squared distances longer by
    d / n, on average; that is taken off.
    """
    d = classes[0].dimension
    counts = np.array([int(one.counts[0]) for one in classes])
    scatters = [scatter(one) if n else np.zeros((d, d)) for one, n in zip(classes, counts, strict=True)]
    pooled = np.sum(scatters, axis=0) / max(int(counts.sum()), 1)
    variance = float(np.trace(pooled)) / d or 1.0
    prior = (1 - share) * pooled + share * variance * np.eye(d)
    centres, factors, offsets = np.zeros((len(classes), d)), np.zeros((len(classes), d, d)), np.zeros(len(classes))
    for k, (one, own, n) in enumerate(zip(classes, scatters, counts.tolist(), strict=True)):
        if n:
            factor = np.linalg.cholesky((own + examples * prior) / (n + examples))
            centres[k], factors[k] = one.sums[0] / n, np.linalg.inv(factor)
            offsets[k] = d / (2 * n) - np.log(np.diag(factor)).sum()
    return Quadratics(counts > 0, centres, factors, offsets)


def scores_each(quadratics: Quadratics, x: np.ndarray) -> np.ndarray:
    """Log-likelihood of every class but for what all have in common, float64 (N, C): examples int8 (N, d); −∞ of a
    class without examples."""
    found = np.full((len(x), len(quadratics.known)), -np.inf)
    for k in np.flatnonzero(quadratics.known):
        at = (x - quadratics.centres[k]) @ quadratics.factors[k].T
        found[:, k] = quadratics.offsets[k] - 0.5 * np.square(at).sum(1)
    return found


def kept_bytes_each(dimension: int, classes: int) -> int:
    """Bytes of the statistics of classes with a moment each, as int32, of at most 133,144 examples of a class."""
    return classes * (8 + 4 * dimension + 4 * (dimension * (dimension + 1) // 2))
