"""Methods that learn from features at once, with no gradient: what is shown beside those that take steps.

Each is told examples int8 (N, d), as class statistics have them (`core/projection.py`), with their labels, keeps
what it needs of these, and tells classes by it. All are of numpy alone.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ..core.closed_form import solve, tell
from ..core.filters import edge_filters
from ..core.gaussians import Shrinkage
from ..core.projection import project
from ..core.statistics import Moment, Statistics, added, kept_bytes, none, of, scatter

# Examples that a covariance begins with, and its isotropic share: as training has a shared one, and for one of each
# class as chosen on validation images (benchmarks/README.md).
BEGIN: dict[Moment, tuple[float, float]] = {"shared": (300.0, 0.1), "each": (1000.0, 0.03)}
DIRECTIONS, CELLS = 12, 7  # of edges; tried on validation images, too
WIDTH = 8.0  # of the kernel of random Fourier features: chosen on validation images


# --- features that no network makes


def edges(pixels: np.ndarray) -> np.ndarray:
    """Edges of 12 directions in 7 × 7 cells: images uint8 (N, 1, 28, 28) -> float32 (N, 588), their mean square 1.

    As of the unit of recipe `edges`: convolution with `edge_filters`, ReLU, the means of cells; then square roots.
    """
    filters = edge_filters(DIRECTIONS, 5).reshape(DIRECTIONS, -1).T
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


class Covariances:
    """Class statistics beside those of a training set, which say whether there is one covariance (streaming LDA,
    Hayes and Kanan 2020) or one of each class."""

    def __init__(self, training: Statistics) -> None:
        self._training, self._device = training, none(training.classes, training.dimension, training.kind)

    @property
    def kept(self) -> int:
        return kept_bytes(self._device.dimension, self._device.classes, self._device.kind)

    def add(self, x: np.ndarray, labels: np.ndarray) -> None:
        self._device = added(self._device, of(x, labels, self._device.classes, self._device.kind))

    def scores(self, x: np.ndarray) -> np.ndarray:
        whole, (examples, share) = added(self._training, self._device), BEGIN[self._device.kind]
        variance = float(np.trace(scatter(whole)) / (whole.counts.sum() * whole.dimension)) or 1.0
        return tell(solve(self._training, self._device, Shrinkage(share, variance, examples)), x).scores


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
