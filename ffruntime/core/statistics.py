"""Class statistics: how many examples of every class there were, their sum, and one second moment of all of them.

Examples are projected features, int8 (`projection.py`); the statistics are integers, so that adding and taking back
are exact, in whatever order. Classes are told by them in closed form: Gaussians with one covariance (streaming
linear discriminant analysis, Hayes and Kanan 2020), by a factor that an example changes by rank one. numpy alone.

The training set's scatter counts as that of few examples (`Shrinkage.examples`): what a device adds is then heard.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta, Struct

from .architecture import Network
from .errors import BundleError
from .layers import feature_tensors
from .projection import LARGEST
from .reading import decode_json

FORMAT = 1
METADATA = "statistics"  # key of a file's metadata
MOST = 1 << 48  # examples: no sum of products of so many can reach 2⁶³
KEPT_BYTES = 400_000  # of statistics, by default


class Statistics(Struct, frozen=True):
    """Integers, all int64. Arrays are not changed any more once they are in here."""

    counts: np.ndarray  # (C,): examples of each class
    sums: np.ndarray  # (C, d): their sums
    moment: np.ndarray  # (d, d): Σ x xᵀ over all examples of all classes

    @property
    def classes(self) -> int:
        return len(self.counts)

    @property
    def dimension(self) -> int:
        return len(self.moment)


class Shrinkage(Struct, frozen=True, forbid_unknown_fields=True):
    """What the covariance begins with: that of the training set, mixed with an isotropic one."""

    share: Annotated[float, Meta(gt=0, le=1)]  # of the isotropic one
    variance: Annotated[float, Meta(gt=0)]  # of the isotropic one, along every axis
    examples: Annotated[float, Meta(gt=0)]  # that both together count as


class Weight(Struct, frozen=True, forbid_unknown_fields=True):
    """What the statistics' scores weigh in an answer, as `combined` says."""

    beside: Annotated[float, Meta(ge=0)]
    alone: Annotated[float, Meta(gt=0)]


class Origin(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose statistics these are: they belong to the units that made the features, and to a projection."""

    format: int
    units: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]  # `units_hash`
    dimension: Annotated[int, Meta(ge=1)]
    seed: Annotated[int, Meta(ge=0, lt=1 << 32)]  # of the projection


# --- the integers


def none(classes: int, dimension: int) -> Statistics:
    """Statistics of no example."""
    shape = (classes, dimension)
    return Statistics(np.zeros(classes, np.int64), np.zeros(shape, np.int64), np.zeros((dimension,) * 2, np.int64))


def of(x: np.ndarray, labels: np.ndarray, classes: int) -> Statistics:
    """Statistics of examples int8 (N, d) with their labels (N,), each below `classes`.

    The products are added up in float64, which is exact below 2⁵³: 5 · 10¹¹ examples.
    """
    exact = x.astype(np.float64)
    sums = np.zeros((classes, x.shape[1]), np.int64)
    np.add.at(sums, labels, x)
    return Statistics(np.bincount(labels, minlength=classes), sums, (exact.T @ exact).astype(np.int64))


def added(*some: Statistics) -> Statistics:
    """Statistics of the examples of all of them. Those of fewer classes have none of the others'.

    Raises `OverflowError` where there would be more than `MOST` examples: no sum can overflow before that.
    """
    classes = max(one.classes for one in some)
    grown = [with_classes(one, classes) for one in some]
    counts = reduce(np.add, (one.counts for one in grown))
    if counts.sum(dtype=float) > MOST:
        raise OverflowError(f"class statistics: more than {MOST} examples")
    sums = reduce(np.add, (one.sums for one in grown))
    return Statistics(counts, sums, reduce(np.add, (one.moment for one in grown)))


def removed(statistics: Statistics, some: Statistics) -> Statistics:
    """Statistics without some of their examples. Raises `ValueError` where there are not so many of a class."""
    some = with_classes(some, statistics.classes)
    counts = statistics.counts - some.counts
    if (counts < 0).any():
        raise ValueError("class statistics: more examples to take back than there are")
    return Statistics(counts, statistics.sums - some.sums, statistics.moment - some.moment)


def without_class(statistics: Statistics, label: int) -> Statistics:
    """Statistics without the count and the sum of a class whose examples are not known. How they are spread about
    their mean, to the nearest integer, stays in the moment; where no other class has examples, nothing stays."""
    if label >= statistics.classes or not statistics.counts[label]:
        return statistics
    counts, sums = statistics.counts.copy(), statistics.sums.copy()
    n, total = int(counts[label]), sums[label].astype(np.float64)
    counts[label] = sums[label] = 0
    if not counts.any():
        return none(statistics.classes, statistics.dimension)
    return Statistics(counts, sums, statistics.moment - np.rint(np.outer(total, total / n)).astype(np.int64))


def with_classes(statistics: Statistics, classes: int) -> Statistics:
    """The same with so many classes; further ones have no examples."""
    more = classes - statistics.classes
    if not more:
        return statistics
    counts, sums = np.pad(statistics.counts, (0, more)), np.pad(statistics.sums, ((0, more), (0, 0)))
    return Statistics(counts, sums, statistics.moment)


def means(statistics: Statistics) -> np.ndarray:
    """Mean of every class, float64 (C, d); 0 of one without examples."""
    return statistics.sums / np.maximum(statistics.counts, 1)[:, None]


def scatter(statistics: Statistics) -> np.ndarray:
    """Σ (x − mean of its class)(x − mean of its class)ᵀ over all examples, float64 (d, d)."""
    return statistics.moment - statistics.sums.T @ means(statistics)


# --- classes told by them


class Gaussians(Struct, frozen=True):
    """Classes as Gaussians with one covariance, ready to tell an example's class by."""

    counts: np.ndarray  # (C,): examples of each class, of the training set and of the device together
    sums: np.ndarray  # (C, d): their sums
    shrinkage: Shrinkage
    weight: float  # examples that the covariance is of
    factor: np.ndarray  # (d, d): R with R A Rᵀ = I, where A is `weight` times the covariance; lower triangular
    centres: np.ndarray  # (C, d): R times every class's mean
    effective: float  # dimensions that the examples fill: d but for what is isotropic


def solve(training: Statistics, device: Statistics, shrinkage: Shrinkage) -> Gaussians:
    """The Gaussians of a training set's statistics and a device's. Takes time with the cube of the dimension.

    The covariance is (E · [(1 − s) · S / n + s · v · I] + D) / (E + n'), of the training set's scatter S of n
    examples and what n' examples of the device add to that, D; s, v and E are `shrinkage`'s. Without a training set
    its term is left out, E times its share, too.
    """
    whole = added(training, device)
    prior, weight = _isotropic(shrinkage) * np.eye(whole.dimension), shrinkage.examples * shrinkage.share
    if n := int(training.counts.sum()):
        before, rest = scatter(training), shrinkage.examples * (1 - shrinkage.share)
        prior += (rest / n) * before
        weight += rest
        prior += scatter(whole) - before
    else:
        prior += scatter(whole)
    factor = np.linalg.inv(np.linalg.cholesky((prior + prior.T) / 2))
    return _gaussians(whole.counts, whole.sums, shrinkage, weight + float(device.counts.sum()), factor)


def _isotropic(shrinkage: Shrinkage) -> float:
    """What of A is isotropic, along every axis."""
    return shrinkage.examples * shrinkage.share * shrinkage.variance


def _gaussians(
    counts: np.ndarray, sums: np.ndarray, shrinkage: Shrinkage, weight: float, factor: np.ndarray
) -> Gaussians:
    isotropic, filled = _isotropic(shrinkage), weight - shrinkage.examples * shrinkage.share
    inside = len(factor) - isotropic * float(np.vdot(factor, factor))  # trace of A⁻¹ (A − isotropic · I)
    effective = weight / filled * max(inside, 0.0) if filled else 0.0
    centres = (sums / np.maximum(counts, 1)[:, None]) @ factor.T
    return Gaussians(counts, sums, shrinkage, weight, factor, centres, effective)


def with_example(gaussians: Gaussians, x: np.ndarray, label: int) -> Gaussians:
    """The Gaussians with one more example int8 (d,) of a device: by rank one, in the dimension's square."""
    return _changed(gaussians, x, label, 1)


def without_example(gaussians: Gaussians, x: np.ndarray, label: int) -> Gaussians:
    """The Gaussians without an example int8 (d,) that a device has added.

    Raises `ValueError` where there is none of the class, or where rounding leaves no factor: `solve` anew.
    """
    return _changed(gaussians, x, label, -1)


def with_examples(gaussians: Gaussians, x: np.ndarray, labels: np.ndarray) -> Gaussians:
    """The Gaussians with more examples int8 (N, d) of a device, with their labels (N,), one after the other."""
    for one, label in zip(x, labels.tolist(), strict=True):
        gaussians = with_example(gaussians, one, label)
    return gaussians


def _changed(gaussians: Gaussians, x: np.ndarray, label: int, sign: int) -> Gaussians:
    """A ± (n / (n ± 1)) (x − mean)(x − mean)ᵀ, where n examples of the class have that mean."""
    more = max(0, label + 1 - len(gaussians.counts))
    counts, sums = np.pad(gaussians.counts, (0, more)), np.pad(gaussians.sums, ((0, more), (0, 0)))
    n, factor = int(counts[label]), gaussians.factor
    if n + sign < 0:
        raise ValueError("class statistics: more examples to take back than there are")
    if n and n + sign:
        factor = updated(factor, np.sqrt(n / (n + sign)) * (x - sums[label] / n), sign)
    counts[label] += sign
    sums[label] += sign * x.astype(np.int64)
    return _gaussians(counts, sums, gaussians.shrinkage, gaussians.weight + sign, factor)


def updated(factor: np.ndarray, step: np.ndarray, sign: int) -> np.ndarray:
    """From R with R A Rᵀ = I, lower triangular, the same of A ± step stepᵀ, in the dimension's square.

    With v = R · step and t_i = 1 ± Σ_{j ≤ i} v_j², a factor of I ± v vᵀ has an inverse with √(t_{i−1} / t_i) on its
    diagonal and ∓ v_i v_j / √(t_{i−1} t_i) below it (Gill, Golub, Murray and Saunders 1974). Raises `ValueError`
    where A − step stepᵀ has none.
    """
    v = factor @ step
    t = 1 + sign * np.cumsum(np.square(v))
    if not t[-1] > 1e-12:
        raise ValueError("class statistics: no factor is left")
    before = np.concatenate([[1.0], t[:-1]])
    diagonal, below = np.sqrt(before / t), sign * v / np.sqrt(before * t)
    result = np.empty_like(factor)  # of v_j times row j, the sum over the rows above each row
    result[0] = 0
    np.multiply(v[:-1, None], factor[:-1], out=result[1:])
    np.cumsum(result[1:], axis=0, out=result[1:])
    result *= -below[:, None]
    result += diagonal[:, None] * factor
    return result


def squared_distances(gaussians: Gaussians, x: np.ndarray) -> np.ndarray:
    """Squared Mahalanobis distance of examples int8 (N, d) to the mean of every class, float64 (N, C); infinite to
    a class without examples.

    The mean of n examples is off by the n-th part of their covariance, which makes a distance larger by the
    dimension over n, on average; that is taken off.
    """
    counts, centres = gaussians.counts, gaussians.centres
    at = x.astype(np.float64) @ gaussians.factor.T
    squares = np.square(at).sum(1)[:, None] - 2 * at @ centres.T + np.square(centres).sum(1)
    squares = squares * gaussians.weight - gaussians.effective / np.maximum(counts, 1)
    return np.where(counts > 0, squares, np.inf)


def scores(gaussians: Gaussians, x: np.ndarray) -> np.ndarray:
    """Log-likelihood of every class but for what all have in common, float64 (N, C): examples int8 (N, d)."""
    return -0.5 * squared_distances(gaussians, x)


def distances(scores: np.ndarray) -> np.ndarray:
    """Mahalanobis distance to the nearest class (N,), float64, of such scores (N, C). √d is to be expected."""
    return np.sqrt(np.maximum(-2 * scores.max(1), 0))


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


# --- whose they are, and how they are written


def units_hash(network: Network, weights: Mapping[str, np.ndarray]) -> str:
    """SHA-256 in hexadecimal of the tensors that features are made with, sorted by name: what readouts and the
    classifier hold is not among them, so these may learn while statistics stay."""
    digest = hashlib.sha256()
    for name in sorted(feature_tensors(network)):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights[name], "<f4").tobytes())
    return digest.hexdigest()


def default_dimension(features: int, classes: int, limit: int = KEPT_BYTES) -> int:
    """The largest dimension whose statistics of so many classes keep to a number of bytes: a multiple of 16, or all
    features."""
    largest = 16
    while largest < features and kept_bytes(largest + 16, classes) <= limit:
        largest += 16
    return min(largest, features)


def kept_bytes(dimension: int, classes: int) -> int:
    """Bytes of the statistics in a file, but for its header, of at most 133,144 examples."""
    return 8 * classes + 4 * (classes * dimension + dimension * (dimension + 1) // 2)


def encode(statistics: Statistics, origin: Origin) -> bytes:
    """A safetensors file of `to_tensors`; `origin` is in its metadata, as JSON."""
    from safetensors.numpy import save

    return save(to_tensors(statistics), {METADATA: msgspec.json.encode(origin).decode()})


def to_tensors(statistics: Statistics) -> dict[str, np.ndarray]:
    """`counts` int64 (C,), `sums` (C, d) and the moment's upper triangle `moment`, row by row, (d · (d + 1) / 2,),
    each int32 where that holds it, else int64."""
    upper = statistics.moment[np.triu_indices(statistics.dimension)]
    return {"counts": statistics.counts, "sums": _narrow(statistics.sums), "moment": _narrow(upper)}


def _narrow(values: np.ndarray) -> np.ndarray:
    """As int32, where that holds them."""
    return values.astype(np.int32) if np.abs(values).max(initial=0) < 1 << 31 else values


def decode(data: bytes, where: str | Path) -> tuple[Statistics, Origin]:
    """What `encode` has written. Raises `BundleError` naming `where` for anything that cannot be statistics."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        origin = decode_json(header["__metadata__"][METADATA], Origin)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise BundleError(f"{where}: no class statistics, or damaged: {error}; copy it again") from error
    if origin.format != FORMAT:
        raise BundleError(f"{where}: format {origin.format} is none that this program reads ({FORMAT})")
    return from_tensors(tensors, origin.dimension, where), origin


def from_tensors(tensors: Mapping[str, np.ndarray], d: int, where: str | Path) -> Statistics:
    """Statistics of dimension d of what `to_tensors` makes. Raises `BundleError` for what cannot be statistics."""
    classes = len(tensors.get("counts", ()))
    _check_arrays(where, tensors, {"counts": (classes,), "sums": (classes, d), "moment": (d * (d + 1) // 2,)})
    upper, moment = np.triu_indices(d), np.zeros((d, d), np.int64)
    moment[upper] = tensors["moment"]
    moment.T[upper] = tensors["moment"]
    found = Statistics(tensors["counts"].astype(np.int64), tensors["sums"].astype(np.int64), moment)
    if not _possible(found):
        raise BundleError(f"{where}: no examples have these class statistics; copy it again")
    return found


def _check_arrays(
    where: str | Path, tensors: Mapping[str, np.ndarray], shapes: Mapping[str, Sequence[int]]
) -> None:
    for name, shape in shapes.items():
        if name not in tensors or tensors[name].shape != shape or tensors[name].dtype not in (np.int32, np.int64):
            raise BundleError(f"{where}: '{name}' is missing, or not int32 or int64 {tuple(shape)}")


def _possible(statistics: Statistics) -> bool:
    """Whether no number is larger than examples of int8 can make it, so that sums do not overflow. The moment may
    have more in it than the examples that are counted (`without_class`)."""
    counts = statistics.counts
    if counts.min(initial=0) < 0 or counts.sum(dtype=float) > MOST:
        return False
    within = (np.abs(statistics.sums) <= LARGEST * counts[:, None]).all()
    return bool(within and np.abs(statistics.moment).max(initial=0) <= LARGEST**2 * MOST)
