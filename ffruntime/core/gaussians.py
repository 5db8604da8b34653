"""Classes told by class statistics in closed form: Gaussians with one covariance.

Streaming linear discriminant analysis (Hayes and Kanan 2020), of counts, sums and one second moment
(`statistics.py`). A factor of the covariance takes time with the cube of the dimension, once; an example then
changes it by rank one, in the dimension's square. numpy alone.

The training set's scatter counts as that of few examples (`Shrinkage.examples`): what a device adds is then heard.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from msgspec import Meta, Struct

from .statistics import Statistics, added, scatter

ROWS = 32  # examples that stand beside the factor, before it is changed


class Shrinkage(Struct, frozen=True, forbid_unknown_fields=True):
    """What the covariance begins with: that of the training set, mixed with an isotropic one."""

    share: Annotated[float, Meta(gt=0, le=1)]  # of the isotropic one
    variance: Annotated[float, Meta(gt=0)]  # of the isotropic one, along every axis
    examples: Annotated[float, Meta(gt=0)]  # that both together count as

    @property
    def isotropic(self) -> float:
        """What is isotropic along every axis, times the examples that it counts as."""
        return self.examples * self.share * self.variance


class Weight(Struct, frozen=True, forbid_unknown_fields=True):
    """What the statistics' scores weigh in an answer, as `combined` says."""

    beside: Annotated[float, Meta(ge=0)]
    alone: Annotated[float, Meta(gt=0)]


class Gaussians(Struct, frozen=True):
    """Classes as Gaussians with one covariance A / `weight`, ready to tell an example's class by.

    A⁻¹ = Rᵀ (I − Bᵀ B) R. Of the training set and the device together. Arrays are not changed any more.
    """

    counts: np.ndarray  # (C,): examples of each class
    shrinkage: Shrinkage
    weight: float  # examples that the covariance is of
    factor: np.ndarray  # R, (d, d)
    rows: np.ndarray  # B, (at most `ROWS`, d): a row for each example since R was made
    centres: np.ndarray  # (C, d): R times every class's mean
    trace: float  # of A⁻¹
    spread: np.ndarray  # (d, d): the training set's scatter over its examples; 0 without any
    typical: float  # trace of A⁻¹ times that
    usual: float  # mean squared distance of the training set's examples by its own covariance

    @property
    def effective(self) -> float:
        """Dimensions that the examples fill: d but for what is isotropic."""
        filled = self.weight - self.shrinkage.examples * self.shrinkage.share
        inside = len(self.factor) - self.shrinkage.isotropic * self.trace  # trace of A⁻¹ (A − isotropic · I)
        return self.weight / filled * max(inside, 0.0) if filled else 0.0

    @property
    def longer(self) -> float:
        """How much longer squared distances of the training set's examples are by what a device was shown besides,
        on average: the more it is like nothing before, the less of the covariance is the training set's."""
        return self.weight * self.typical / self.usual if self.usual else 1.0


def solve(training: Statistics, device: Statistics, shrinkage: Shrinkage) -> Gaussians:
    """The Gaussians of a training set's statistics and a device's. Takes time with the cube of the dimension.

    The covariance is (E · [(1 − s) · S / n + s · v · I] + D) / (E + n'), of the training set's scatter S of n
    examples and what n' examples of the device add to that, D; s, v and E are `shrinkage`'s. Without a training set
    its term is left out, E times its share, too.
    """
    d, n, share = training.dimension, int(training.counts.sum()), shrinkage.share
    weight, rest = shrinkage.examples * (share if not n else 1.0), shrinkage.examples * (1 - share)
    spread = scatter(training) / n if n else np.zeros((d, d))
    usual = weight * _along(_factor(rest * spread, shrinkage), spread) if n and device.counts.any() else 0.0
    whole = added(training, device)
    total = scatter(whole)
    if n:
        total += (rest - n) * spread
    factor = _factor(total, shrinkage)
    typical = _along(factor, spread) if n else 0.0
    usual = usual or weight * typical
    centres = (whole.sums / np.maximum(whole.counts, 1)[:, None]) @ factor.T
    weight += float(device.counts.sum())
    rows, trace = np.empty((0, d)), float(np.vdot(factor, factor))
    return Gaussians(whole.counts, shrinkage, weight, factor, rows, centres, trace, spread, typical, usual)


def _factor(total: np.ndarray, shrinkage: Shrinkage) -> np.ndarray:
    """R with Rᵀ R = A⁻¹, of A without what is isotropic, which is added in place."""
    total[np.diag_indices(len(total))] += shrinkage.isotropic
    factor: np.ndarray = np.linalg.inv(np.linalg.cholesky(total))
    return factor


def _along(factor: np.ndarray, spread: np.ndarray) -> float:
    """The trace of Rᵀ R times a symmetric matrix."""
    return float(np.vdot(factor @ spread, factor))


def with_examples(gaussians: Gaussians, x: np.ndarray, labels: np.ndarray) -> Gaussians:
    """The Gaussians with more examples int8 (N, d) of a device, with their labels (N,), one after the other."""
    for one, label in zip(x, labels.tolist(), strict=True):
        gaussians = with_example(gaussians, one, label)
    return gaussians


def with_example(gaussians: Gaussians, x: np.ndarray, label: int) -> Gaussians:
    """The Gaussians with one more example int8 (d,) of a device: by rank one, in the dimension's square.

    A + u uᵀ with u = √(n / (n + 1)) (x − mean), where n examples of the class have that mean. With v = R u and
    P = I − Bᵀ B the new row of B is P v / √(1 + vᵀ P v), by Sherman and Morrison's formula.
    """
    counts, centres = gaussians.counts.copy(), gaussians.centres
    if label < len(counts):
        centres = centres.copy()
    else:
        more = label + 1 - len(counts)
        counts, centres = np.pad(counts, (0, more)), np.pad(centres, ((0, more), (0, 0)))
    n, at = int(counts[label]), gaussians.factor @ x.astype(np.float64)
    rows, trace, typical = gaussians.rows, gaussians.trace, gaussians.typical
    if n:
        v = np.sqrt(n / (n + 1)) * (at - centres[label])
        pv = v - (rows @ v) @ rows
        row = pv / np.sqrt(1 + v @ pv)
        rows, along = np.concatenate([rows, row[None]]), row @ gaussians.factor
        trace, typical = trace - float(along @ along), typical - float(along @ gaussians.spread @ along)
    counts[label] += 1
    centres[label] += (at - centres[label]) / (n + 1)
    factor = gaussians.factor
    if len(rows) > ROWS:
        factor, centres, rows = _folded(factor, centres, rows)
    weight, spread, usual = gaussians.weight + 1, gaussians.spread, gaussians.usual
    return Gaussians(counts, gaussians.shrinkage, weight, factor, rows, centres, trace, spread, typical, usual)


def _folded(factor: np.ndarray, centres: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same with the rows in the factor: it and the centres are multiplied by the root of I − Bᵀ B, which is
    I − Bᵀ Q diag((1 − √(1 − λ)) / λ) Qᵀ B where Q diag(λ) Qᵀ = B Bᵀ."""
    values, vectors = np.linalg.eigh(rows @ rows.T)
    values = np.clip(values, 1e-15, 1)
    turned = vectors.T @ rows
    shrunk = turned * ((1 - np.sqrt(1 - values)) / values)[:, None]
    factor = factor - shrunk.T @ (turned @ factor)
    return factor, centres - (centres @ turned.T) @ shrunk, rows[:0]


def squared_distances(gaussians: Gaussians, x: np.ndarray) -> np.ndarray:
    """Squared Mahalanobis distance of examples int8 (N, d) to the mean of every class, float64 (N, C); infinite to
    a class without examples.

    The mean of n examples is off by the n-th part of their covariance, which makes a distance larger by the
    dimension over n, on average; that is taken off.
    """
    counts = gaussians.counts
    squares = _squares(gaussians, whitened(gaussians, x)) * gaussians.weight
    squares -= gaussians.effective / np.maximum(counts, 1)
    return np.where(counts > 0, squares, np.inf)


def whitened(gaussians: Gaussians, x: np.ndarray) -> np.ndarray:
    """R times examples int8 (N, d), float64 (N, d)."""
    at: np.ndarray = x.astype(np.float64) @ gaussians.factor.T
    return at


def _squares(gaussians: Gaussians, at: np.ndarray) -> np.ndarray:
    """(x − mean)ᵀ A⁻¹ (x − mean) of whitened examples (N, d) and every class, (N, C)."""
    centres, rows = gaussians.centres, gaussians.rows
    beside, of_centres = at @ rows.T, centres @ rows.T
    squares = np.square(at).sum(1) - np.square(beside).sum(1)
    own = np.square(centres).sum(1) - np.square(of_centres).sum(1)
    found: np.ndarray = squares[:, None] - 2 * (at @ centres.T - beside @ of_centres.T) + own
    return found


def leave_one_out(gaussians: Gaussians, at: np.ndarray, label: int) -> np.ndarray:
    """Squared distances to every class (N, C), as `squared_distances` has them, of examples that a device was shown
    of one class, each as if it had not been among them; `at`: they are `whitened` (N, d). For two or more.

    Without one, A is A − a u uᵀ with u = x − mean and a = n / (n − 1) of a class of n, by Sherman and Morrison's
    formula; `effective` stays as it is.
    """
    n, rows, centres = int(gaussians.counts[label]), gaussians.rows, gaussians.centres
    squares, u, a = _squares(gaussians, at), at - centres[label], n / (n - 1)
    own = squares[:, label].copy()
    left = np.maximum(1 - a * own, 1e-12)
    turned = u - (u @ rows.T) @ rows
    across = np.einsum("nd,nd->n", at, turned)[:, None] - turned @ centres.T
    squares += a * np.square(across) / left[:, None]
    squares[:, label] = a * a * own / left
    counts = gaussians.counts - (np.arange(len(centres)) == label)
    squares = squares * (gaussians.weight - 1) - gaussians.effective / np.maximum(counts, 1)
    return np.where(counts > 0, squares, np.inf)


def apart(gaussians: Gaussians) -> np.ndarray:
    """Distance of every class's mean to the nearest other one's, float64 (C,), in deviations, less what means are
    off by, on average; infinite of one without examples, or alone."""
    counts = np.maximum(gaussians.counts, 1)
    squares = _squares(gaussians, gaussians.centres) * gaussians.weight
    squares -= gaussians.effective * (1 / counts[:, None] + 1 / counts)
    none = gaussians.counts == 0
    squares[none], squares[:, none], squares[np.diag_indices(len(counts))] = np.inf, np.inf, np.inf
    return np.sqrt(np.maximum(squares.min(1), 0))


def combined(own: np.ndarray, rows: np.ndarray, scores: np.ndarray, weight: Weight, together: int) -> np.ndarray:
    """The network's own scores of the classes `rows` (K,), (N, K), with the statistics' scores of all, (N, C) ->
    float32 (N, C).

    The first `together` classes are those that the network was trained on, with one another: of these a score is
    the network's, plus `beside` times the statistics'. Another class is compared with the best of them: it has the
    same score, plus what the network gives it more, plus `alone` times what the statistics give it more. Where the
    network has no row for a class it gives it as much as its best, and statistics decide alone.
    """
    known = np.isfinite(scores).any(0)  # classes with examples
    told = np.where(known, scores, scores[:, known].min(1, keepdims=True) if known.any() else 0.0)
    whole = np.repeat(own.max(1, keepdims=True).astype(np.float64), scores.shape[1], axis=1)
    whole[:, rows] = own
    first = [row for row in rows.tolist() if row < together]
    if not first:
        return (whole + weight.alone * told).astype(np.float32)
    result = whole + weight.beside * told
    later = np.arange(together, scores.shape[1])
    more = whole[:, later] - whole[:, first].max(1, keepdims=True)
    if known[first].any():
        more += weight.alone * (told[:, later] - told[:, first].max(1, keepdims=True))
    result[:, later] = result[:, first].max(1, keepdims=True) + more
    return result.astype(np.float32)
