"""Class statistics of the training images, gathered when training ends, and what they count for in an answer.

A device begins with them (`ffruntime/core/statistics.py`). How the covariance is shrunk and what the statistics'
scores weigh (`gaussians.py`) is chosen on validation images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from ffruntime.core.architecture import Network, class_goodness
from ffruntime.core.bundle import Bundle
from ffruntime.core.closed_form import Solved, solve, tell
from ffruntime.core.data import Examples
from ffruntime.core.gaussians import Shrinkage, Weight, combined
from ffruntime.core.layers import statistics_features
from ffruntime.core.manifest import ClassStatistics
from ffruntime.core.statistics import (
    Moment,
    Projected,
    Statistics,
    default_dimension,
    encode,
    none,
    scatter,
    units_hash,
)

from . import network as net
from .calibration import fit_temperature
from .evaluation import IMAGES
from .functional import Tensors
from .recipe import PLAIN, Kind

SEED = 0  # of every projection
# Examples that all classes' scatter counts as: for a covariance that they share, chosen on validation images of a
# network trained on nine digits that learned the tenth (benchmarks/README.md); for one of each, what is tried.
COUNT_AS: dict[Moment, tuple[float, ...]] = {"shared": (300.0,), "each": (100.0, 300.0, 1000.0)}
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)  # isotropic ones that are tried
# Of the accuracy of statistics alone: new classes are told better by a more isotropic covariance that they share.
MAY_COST: dict[Moment, float] = {"shared": 0.002, "each": 0.0}
# Tried with class goodness. Where the label is in the input, what statistics are made of would take another pass,
# and they are for classes learned later alone.
BESIDE = (0.0, *(10.0**power for power in (-1.5, -1, -0.5, 0, 0.5)))


class Made(NamedTuple):
    """Class statistics, and how they answer."""

    how: ClassStatistics
    statistics: Statistics

    @property
    def solved(self) -> Solved:
        return solve(self.statistics, self.how.none(self.statistics.classes), self.how.shrinkage)


def of_bundle(bundle: Bundle) -> Made | None:
    """Those of a bundle; None where it has none."""
    how = bundle.manifest.statistics
    return Made(how, bundle.statistics()) if how else None


@torch.no_grad()
def examples(
    network: Network,
    tensors: Tensors,
    split: Examples,
    how: Projected,
    advance: Callable[[int], object] = lambda _: None,
) -> np.ndarray:
    """The examples of class statistics that images are, int8 (N, dimension); `advance` is told of images."""
    features = net.class_features if class_goodness(network) else net.neutral_features
    rows = [np.empty((0, how.dimension), np.int8)]
    for part in split.pixels.split(IMAGES):
        found = features(network, tensors, net.to_images(part, network, torch.float32))
        rows.append(how.project(found.cpu().numpy()))
        advance(len(part))
    return np.concatenate(rows)


def gather(
    network: Network,
    tensors: Tensors,
    train: Examples,
    validation: Examples,
    scores: Mapping[str, np.ndarray],
    classes: int,
    kind: Kind = PLAIN,
    trained: bool = True,
) -> Made:
    """Statistics of all training images, of that `kind`, with shrinkage and weights chosen on the
    validation images, whose own `scores` (N, classes) by trained mode are given. Not `trained`, the network tells
    no classes by itself."""
    patterns = network.label.patterns
    dimension = default_dimension(statistics_features(network), patterns, kind.bytes, kind.moment)
    how = Projected(dimension, SEED, kind.moment, kind.root)
    found = how.of(examples(network, tensors, train, how), train.labels.cpu().numpy(), classes)
    own, labels = examples(network, tensors, validation, how), validation.labels.cpu().numpy()
    variance = float(np.trace(scatter(found)) / (int(found.counts.sum()) * dimension)) or 1.0
    shrinkage = choose_shrinkage(found, variance, own, labels)
    told = tell(solve(found, how.none(classes), shrinkage), own).scores
    beside = BESIDE if class_goodness(network) else BESIDE[:1]
    weights = {mode: choose_weight(rows, told, labels, beside) for mode, rows in scores.items()}
    together = classes if trained else 0
    return Made(
        ClassStatistics(
            dimension, SEED, kind.moment, kind.root, shrinkage=shrinkage, together=together, weights=weights
        ),
        found,
    )


def choose_shrinkage(found: Statistics, variance: float, x: np.ndarray, labels: np.ndarray) -> Shrinkage:
    """The most isotropic covariance, of those that begin with the most examples, that costs no more than `MAY_COST`
    of the best accuracy of statistics alone."""
    tried = [Shrinkage(share, variance, examples) for examples in COUNT_AS[found.kind] for share in SHARES]
    nothing = none(found.classes, found.dimension, found.kind)
    right = [float((tell(solve(found, nothing, one), x).scores.argmax(1) == labels).mean()) for one in tried]
    enough = max(right) - MAY_COST[found.kind]
    return [one for one, share in zip(tried, right, strict=True) if share >= enough][-1]


def choose_weight(own: np.ndarray, told: np.ndarray, labels: np.ndarray, beside: Sequence[float]) -> Weight:
    """What the statistics' scores (N, C) weigh beside a mode's own (N, C).

    `beside`: of these, times the ratio of the scores' temperatures, the one with which most answers are right, of
    equals the least. `alone`: the weight with which a difference of the statistics' scores is worth as much, at the
    temperature of the sum, as it is at its own.
    """
    apart = fit_temperature(told, labels)
    unit = fit_temperature(own, labels) / apart
    sums = [own + unit * share * told for share in beside]
    right = [int((rows.argmax(1) == labels).sum()) for rows in sums]
    best = right.index(max(right))
    return Weight(float(f"{unit * beside[best]:.3g}"), float(f"{fit_temperature(sums[best], labels) / apart:.3g}"))


def with_statistics(
    made: Made, network: Network, tensors: Tensors, split: Examples, scores: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """The scores that a device gives: the network's own by mode, (N, C), of the images of a split, with those of
    the statistics where these weigh anything; and with class goodness the Mahalanobis distance of every image to
    the nearest class, (N,)."""
    if not class_goodness(network):
        return dict(scores), None
    told = tell(made.solved, examples(network, tensors, split, made.how))
    rows, weights = np.arange(made.statistics.classes), made.how.weights
    if any(weights[mode].beside for mode in scores):
        together = made.how.together
        scores = {mode: combined(own, rows, told.scores, weights[mode], together) for mode, own in scores.items()}
    return dict(scores), told.distances


def encoded(made: Made, network: Network, tensors: Tensors) -> bytes:
    """The file of the bundle with these weights."""
    units = units_hash(network, {name: tensor.numpy() for name, tensor in tensors.items()})
    return encode(made.statistics, made.how.origin(units))
