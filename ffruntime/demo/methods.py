"""Methods that learn from features at once, with no gradient: what is shown beside those that take steps.

Each is told examples int8 (N, d), as class statistics have them (`core/projection.py`), with their labels, keeps
what it needs of these, and tells classes by it. All are of numpy alone.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ..core.covariances import kept_bytes_each, scores_each, solve_each
from ..core.gaussians import Shrinkage, scores, solve
from ..core.projection import project
from ..core.statistics import Statistics, added, kept_bytes, none, of, scatter

SHARED = (300.0, 0.1)  # examples that the covariance begins with, and its isotropic share, as training has them
DIRECTIONS, CELLS = 12, 7  # of edges; tried on validation images, as OWN
WIDTH = 8.0  # of the kernel of random Fourier features: chosen on validation images
OWN = (1000.0, 0.03)  # the same for a covariance of each class: chosen on validation images (benchmarks/README.md)


# --- features that no network makes


def edges(pixels: np.ndarray) -> np.ndarray:
    """Edges of 12 directions in 7 × 7 cells: images uint8 (N, 1, 28, 28) -> float32 (N, 588), their mean square 1.

    As of a unit that was never trained: convolution with derivatives of a Gaussian (5 × 5, deviation 1), ReLU, the
    means of cells; then square roots, so that strong and weak edges are more alike (direction features: Liu et al.
    2003).
    """
    offsets = np.arange(-2.0, 3.0)
    bell = np.exp(-np.square(offsets) / 2)
    across, down = np.outer(bell, offsets * bell), np.outer(offsets * bell, bell)
    turns = 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    filters = np.stack([(np.cos(t) * across + np.sin(t) * down).ravel() for t in turns], 1).astype(np.float32)
    found = np.empty((len(pixels), DIRECTIONS * CELLS * CELLS), np.float32)
    for start in range(0, len(pixels), 500):
        some = np.pad(pixels[start : start + 500, 0], ((0, 0), (2, 2), (2, 2))).astype(np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(some, (5, 5), (1, 2)).reshape(-1, 25)
        strength = np.maximum(windows @ filters, 0).reshape(len(some), CELLS, 4, CELLS, 4, DIRECTIONS)
        means = np.sqrt(strength.mean((2, 4)).reshape(len(some), -1))
        found[start : start + 500] = means / np.sqrt(np.square(means).mean(1, keepdims=True) + 1e-12)
    return found


def waves(pixels: np.ndarray, dimension: int, width: float, seed: int) -> np.ndarray:
    """Random Fourier features of pixels (Rahimi and Recht 2007), of a Gaussian kernel of that width: images uint8
    (N, 1, H, W) -> int8 (N, dimension)."""
    flat = pixels.reshape(len(pixels), -1)
    rng = np.random.default_rng([seed, 7])
    directions = (rng.standard_normal((flat.shape[1], dimension)) / width).astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, dimension).astype(np.float32)
    found = np.empty((len(flat), dimension), np.int8)
    for start in range(0, len(flat), 1000):
        some = flat[start : start + 1000].astype(np.float32) / 255
        found[start : start + 1000] = np.rint(64 * np.cos(some @ directions + phases))
    return found


def in_parts(features: np.ndarray, dimension: int, seed: int) -> np.ndarray:
    """`project`, a thousand images at a time, so that memory stays small."""
    parts = [project(features[k : k + 1000], dimension, seed) for k in range(0, len(features), 1000)]
    return np.concatenate(parts)


# --- what they keep, and how they tell classes


class Method(Protocol):
    """What a method does with examples."""

    @property
    def kept(self) -> int:
        """Bytes that it keeps of them."""

    def add(self, x: np.ndarray, labels: np.ndarray) -> None:
        """Learn from examples int8 (N, d) with their labels (N,)."""

    def scores(self, x: np.ndarray) -> np.ndarray:
        """The better, the higher, of every class: (N, C); −∞ of one that it was never told of."""


class NearestMean:
    """Nearest class mean: per class a count and a sum, those of a training set to begin with."""

    def __init__(self, training: Statistics) -> None:
        self._counts, self._sums = training.counts.copy(), training.sums.copy()

    @property
    def kept(self) -> int:
        return 8 * len(self._counts) + 4 * self._sums.size

    def add(self, x: np.ndarray, labels: np.ndarray) -> None:
        self._counts += np.bincount(labels, minlength=len(self._counts))
        np.add.at(self._sums, labels, x)

    def scores(self, x: np.ndarray) -> np.ndarray:
        means = self._sums / np.maximum(self._counts, 1)[:, None]
        near = 2 * x.astype(np.float64) @ means.T - np.square(means).sum(1)
        return np.where(self._counts > 0, near, -np.inf)


class Neighbours:
    """k nearest neighbours among kept examples: of every class a sample, as many as there is room for."""

    def __init__(self, classes: int, dimension: int, limit: int, k: int = 5, seed: int = 0) -> None:
        self._classes, self._capacity, self._k = classes, limit // (dimension + 1), k
        self._rng = np.random.default_rng([seed, 5])
        self._x, self._labels = np.empty((0, dimension), np.int8), np.empty(0, np.int64)
        self._draws = np.empty(0)

    @property
    def kept(self) -> int:
        return self._x.size + len(self._labels)

    def add(self, x: np.ndarray, labels: np.ndarray) -> None:
        every, of_all = np.concatenate([self._x, x]), np.concatenate([self._labels, labels])
        draws = np.concatenate([self._draws, self._rng.random(len(x))])
        places = evenly(of_all, draws, self._capacity)
        self._x, self._labels, self._draws = every[places], of_all[places], draws[places]

    def scores(self, x: np.ndarray) -> np.ndarray:
        found = np.full((len(x), self._classes), -np.inf)
        found[:, np.unique(self._labels)] = 0.0
        kept, k = self._x.astype(np.float32), min(self._k, len(self._x))
        for start in range(0, len(x), 1000):
            some = x[start : start + 1000].astype(np.float32)
            far = np.square(some).sum(1)[:, None] - 2 * some @ kept.T + np.square(kept).sum(1)
            near = np.argpartition(far, k - 1, axis=1)[:, :k]
            weights = 1 / (1 + np.take_along_axis(far, near, axis=1).clip(0))
            rows = np.repeat(np.arange(start, start + len(some)), k)
            np.add.at(found, (rows, self._labels[near].ravel()), weights.ravel())
        return found


class SharedCovariance:
    """Class statistics with one second moment that all classes share (streaming LDA, Hayes and Kanan 2020), beside
    those of a training set."""

    def __init__(self, training: Statistics, examples: float = SHARED[0], share: float = SHARED[1]) -> None:
        self._training, self._examples, self._share = training, examples, share
        self._device = none(training.classes, training.dimension)

    @property
    def kept(self) -> int:
        return kept_bytes(self._device.dimension, self._device.classes)

    def add(self, x: np.ndarray, labels: np.ndarray) -> None:
        self._device = added(self._device, of(x, labels, self._device.classes))

    def scores(self, x: np.ndarray) -> np.ndarray:
        whole = added(self._training, self._device)
        variance = float(np.trace(scatter(whole)) / (whole.counts.sum() * whole.dimension)) or 1.0
        return scores(solve(self._training, self._device, Shrinkage(self._share, variance, self._examples)), x)


class OwnCovariances:
    """Class statistics with a second moment of each class."""

    def __init__(self, classes: int, dimension: int, examples: float = OWN[0], share: float = OWN[1]) -> None:
        self._each = [none(1, dimension) for _ in range(classes)]
        self._examples, self._share = examples, share

    @property
    def kept(self) -> int:
        return kept_bytes_each(self._each[0].dimension, len(self._each))

    def add(self, x: np.ndarray, labels: np.ndarray) -> None:
        for label in np.unique(labels).tolist():
            own = x[labels == label]
            self._each[label] = added(self._each[label], of(own, np.zeros(len(own), np.int64), 1))

    def scores(self, x: np.ndarray) -> np.ndarray:
        return scores_each(solve_each(self._each, self._examples, self._share), x)


def own_dimension(classes: int, limit: int) -> int:
    """The largest multiple of 8 for which a covariance of each class keeps to a number of bytes; 8 at least."""
    dimension = 8
    while kept_bytes_each(dimension + 8, classes) <= limit:
        dimension += 8
    return dimension


def evenly(labels: np.ndarray, draws: np.ndarray, capacity: int) -> np.ndarray:
    """Places of at most `capacity` examples, evenly over their labels (N,): of each class those whose `draws` (N,),
    random numbers that stay with them, are the least. So what is kept is a random sample whatever comes when."""
    classes = np.unique(labels)
    room = capacity // max(len(classes), 1)
    own = (np.flatnonzero(labels == label) for label in classes)
    places = [some[np.argsort(draws[some], kind="stable")[:room]] for some in own]
    return np.concatenate(places) if places else np.empty(0, np.int64)


def accuracy(method: Method, x: np.ndarray, labels: np.ndarray) -> float:
    """Share of examples int8 (N, d) whose class the method tells rightly."""
    return float(np.mean(method.scores(x).argmax(1) == labels))
