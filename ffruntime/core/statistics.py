"""Class statistics: how many examples of every class there were, their sum, and second moments: one of all of them,
or one of every class's.

Examples are projected features, int8 (`projection.py`); the statistics are integers, so that adding and taking back
are exact, in whatever order. Classes are told by them in closed form (`closed_form.py`). numpy alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta, Struct

from .architecture import Network, Positive
from .errors import BundleError
from .layers import feature_tensors
from .projection import LARGEST, project
from .reading import decode_json

FORMAT = 1
METADATA = "statistics"  # key of a file's metadata
MOST = 1 << 48  # examples: no sum of products of so many can reach 2⁶³
KEPT_BYTES = 400_000  # of statistics, by default
ROWS = 64  # examples that are kept as they are, before their products are added up

Moment: TypeAlias = Literal["shared", "each"]  # one second moment of all classes, or every class has its own


class Statistics(Struct, frozen=True):
    """Integers, all int64 but `rows`. Arrays are not changed any more once they are in here."""

    counts: np.ndarray  # (C,): examples of each class
    sums: np.ndarray  # (C, d): their sums
    # (d · (d + 1) / 2,): the upper triangle, row by row, of Σ x xᵀ over examples of all classes; or (C, …), of each
    moment: np.ndarray
    # int8 (at most `ROWS`, d): the other examples, of which the moment has nothing yet; none where each has its own
    rows: np.ndarray

    @property
    def classes(self) -> int:
        return len(self.counts)

    @property
    def dimension(self) -> int:
        return self.sums.shape[1]

    @property
    def kind(self) -> Moment:
        """Whose the moment is."""
        return "shared" if self.moment.ndim == 1 else "each"


class Projected(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How images become examples of class statistics, and what is kept of these."""

    dimension: Positive  # of an example
    seed: Annotated[int, Meta(ge=0, lt=1 << 32)]  # of the projection
    moment: Moment = "shared"
    root: bool = False  # whether examples are made of the features' square roots

    def project(self, features: np.ndarray) -> np.ndarray:
        """Features float (N, F) -> examples int8 (N, d)."""
        return project(features, self.dimension, self.seed, self.root)

    def none(self, classes: int) -> Statistics:
        """Statistics of no example."""
        return none(classes, self.dimension, self.moment)

    def of(self, x: np.ndarray, labels: np.ndarray, classes: int) -> Statistics:
        """Statistics of examples int8 (N, d) with their labels (N,), each below `classes`."""
        return of(x, labels, classes, self.moment)

    def kept_bytes(self, classes: int) -> int:
        """Bytes of statistics of so many classes."""
        return kept_bytes(self.dimension, classes, self.moment)

    def origin(self, units: str) -> Origin:
        """That of statistics of units that have this hash."""
        return Origin(self.dimension, self.seed, self.moment, self.root, format=FORMAT, units=units)


class Origin(Projected, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whose statistics these are: they belong to the units that made the features, and to a projection."""

    format: int
    units: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]  # `units_hash`


# --- the integers


def none(classes: int, dimension: int, moment: Moment = "shared") -> Statistics:
    """Statistics of no example."""
    sums, rows = np.zeros((classes, dimension), np.int64), np.empty((0, dimension), np.int8)
    return Statistics(np.zeros(classes, np.int64), sums, _no_products(classes, dimension, moment), rows)


def of(x: np.ndarray, labels: np.ndarray, classes: int, moment: Moment = "shared") -> Statistics:
    """Statistics of examples int8 (N, d) with their labels (N,), each below `classes`."""
    return with_examples(none(classes, x.shape[1], moment), x, labels)


def with_examples(statistics: Statistics, x: np.ndarray, labels: np.ndarray) -> Statistics:
    """The same with more examples int8 (N, d), with their labels (N,), which may be of further classes.

    Raises `OverflowError` where there would be more than `MOST` examples: no sum can overflow before that.
    """
    grown = with_classes(statistics, max(statistics.classes, int(labels.max(initial=-1)) + 1))
    counts, sums = grown.counts + np.bincount(labels, minlength=grown.classes), grown.sums.copy()
    _require_possible(counts)
    np.add.at(sums, labels, x)
    if grown.kind == "shared":
        rows = np.concatenate([grown.rows, x]) if len(grown.rows) else x
        return _few_rows(Statistics(counts, sums, grown.moment, rows))
    products = grown.moment.copy() if len(x) else grown.moment
    for label in np.unique(labels).tolist():
        products[label] += _products(x[labels == label])
    return Statistics(counts, sums, products, grown.rows)


def added(*some: Statistics) -> Statistics:
    """Statistics of the examples of all of them. Those of fewer classes have none of the others'. Raises as
    `with_examples` does."""
    classes = max(one.classes for one in some)
    grown = [with_classes(one, classes) for one in some]
    counts = reduce(np.add, (one.counts for one in grown))
    _require_possible(counts)
    moments = [one.moment for one in grown if one.moment.strides[0]] or [grown[0].moment]  # of some examples
    sums, rows = reduce(np.add, (one.sums for one in grown)), np.concatenate([one.rows for one in grown])
    return _few_rows(Statistics(counts, sums, reduce(np.add, moments), rows))


def subtracted(whole: Statistics, part: Statistics) -> Statistics:
    """Statistics of the examples that are in `whole` and not in `part`, which are among its own.

    Raises `ValueError` where they cannot be, as no examples would have what is left.
    """
    part = with_classes(part, whole.classes)
    counts, sums, left = whole.counts - part.counts, whole.sums - part.sums, moment(whole) - moment(part)
    found = Statistics(counts, sums, left, whole.rows[:0])
    if not _possible(found):
        raise ValueError("class statistics that are not part of others cannot be taken out of them")
    return found


def without_class(statistics: Statistics, label: int) -> Statistics:
    """Statistics without a class whose examples are not known: without its count and its sum. Of a moment that is
    shared, how they are spread about their mean, to the nearest integer, stays in it; one of its own goes. Where no
    other class has examples, nothing stays."""
    if label >= statistics.classes or not statistics.counts[label]:
        return statistics
    counts, sums = statistics.counts.copy(), statistics.sums.copy()
    n, total = int(counts[label]), sums[label].astype(np.float64)
    counts[label] = sums[label] = 0
    products = moment(statistics).copy()
    if statistics.kind == "each":
        products[label] = 0
    elif not counts.any():
        products[:] = 0
    else:
        products -= np.rint(np.outer(total, total / n))[upper(statistics.dimension)].astype(np.int64)
    return Statistics(counts, sums, products, statistics.rows[:0])


def with_classes(statistics: Statistics, classes: int) -> Statistics:
    """The same with so many classes: further ones have no examples, nor had those that go."""
    if classes == statistics.classes:
        return statistics
    more, rows = max(0, classes - statistics.classes), statistics.rows
    counts = np.pad(statistics.counts[:classes], (0, more))
    sums = np.pad(statistics.sums[:classes], ((0, more), (0, 0)))
    products = statistics.moment
    if statistics.kind == "each":
        few = products[:classes]
        products = _no_products(classes, statistics.dimension, "each")
        if few.strides[0]:  # of some examples
            products = np.pad(few, ((0, more), (0, 0)))
    return Statistics(counts, sums, products, rows)


def moment(statistics: Statistics) -> np.ndarray:
    """The upper triangle, row by row, of Σ x xᵀ over all examples, int64 (d · (d + 1) / 2,), or over each class's,
    (C, d · (d + 1) / 2)."""
    return statistics.moment + _products(statistics.rows) if len(statistics.rows) else statistics.moment


def upper(dimension: int) -> np.ndarray:
    """Where the upper triangle is, bool (d, d)."""
    return np.tri(dimension, dtype=bool).T


def means(statistics: Statistics) -> np.ndarray:
    """Mean of every class, float64 (C, d); 0 of one without examples."""
    return statistics.sums / np.maximum(statistics.counts, 1)[:, None]


def scatter(statistics: Statistics) -> np.ndarray:
    """Σ (x − mean of its class)(x − mean of its class)ᵀ over all examples, float64 (d, d)."""
    products = moment(statistics)
    whole = _whole(products.sum(0) if statistics.kind == "each" else products, statistics.dimension)
    whole -= statistics.sums.T @ means(statistics)
    return whole


def scatters(statistics: Statistics) -> np.ndarray:
    """The same of every class, of statistics that have a moment of each, float64 (C, d, d)."""
    own = [_whole(products, statistics.dimension) for products in statistics.moment]
    each = np.array(own).reshape(-1, statistics.dimension, statistics.dimension)
    each -= statistics.sums[:, :, None] * means(statistics)[:, None]
    return each


def _whole(triangle: np.ndarray, dimension: int) -> np.ndarray:
    """The symmetric matrix, float64 (d, d), of which the upper triangle is given, row by row."""
    whole, there = np.empty((dimension, dimension)), upper(dimension)
    whole[there] = triangle
    whole.T[there] = whole[there]
    return whole


def _products(x: np.ndarray) -> np.ndarray:
    """The upper triangle of Σ x xᵀ over examples int8 (N, d). They are added up in float64, which is exact below
    2⁵³: 5 · 10¹¹ examples."""
    exact = x.astype(np.float64)
    return (exact.T @ exact)[upper(x.shape[1])].astype(np.int64)


def _no_products(classes: int, dimension: int, moment: Moment) -> np.ndarray:
    """A moment of no example, which takes no memory: its strides are 0."""
    triangle = (dimension * (dimension + 1) // 2,)
    return np.broadcast_to(np.int64(0), triangle if moment == "shared" else (classes, *triangle))


def _require_possible(counts: np.ndarray) -> None:
    if counts.sum(dtype=float) > MOST:
        raise OverflowError(f"class statistics: more than {MOST} examples")


def _few_rows(statistics: Statistics) -> Statistics:
    """The same with the products of its rows in the moment where there are many rows."""
    if len(statistics.rows) <= ROWS:
        return statistics
    return Statistics(statistics.counts, statistics.sums, moment(statistics), statistics.rows[:0])


# --- whose they are, and how they are written


def units_hash(network: Network, weights: Mapping[str, np.ndarray]) -> str:
    """SHA-256 in hexadecimal of the tensors that features are made with, sorted by name: what readouts and the
    classifier hold is not among them, so these may learn while statistics stay."""
    digest = hashlib.sha256()
    for name in sorted(feature_tensors(network)):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights[name], "<f4").tobytes())
    return digest.hexdigest()


def default_dimension(features: int, classes: int, limit: int = KEPT_BYTES, moment: Moment = "shared") -> int:
    """The largest dimension whose statistics of so many classes keep to a number of bytes: a multiple of 16, where
    every class has a moment of its own of 8, or all features."""
    step = 16 if moment == "shared" else 8
    largest = step
    while largest < features and kept_bytes(largest + step, classes, moment) <= limit:
        largest += step
    return min(largest, features)


def kept_bytes(dimension: int, classes: int, moment: Moment = "shared") -> int:
    """Bytes of the statistics in a file, but for its header, of at most 133,144 examples that share a moment."""
    moments = 1 if moment == "shared" else classes
    return 8 * classes + 4 * (classes * dimension + moments * (dimension * (dimension + 1) // 2))


def encode(statistics: Statistics, origin: Origin) -> bytes:
    """A safetensors file of `to_tensors`; `origin` is in its metadata, as JSON."""
    from safetensors.numpy import save

    return save(to_tensors(statistics), {METADATA: msgspec.json.encode(origin).decode()})


def to_tensors(statistics: Statistics) -> dict[str, np.ndarray]:
    """`counts` int64 (C,), `sums` (C, d) and the moment's upper triangle `moment`, row by row, (d · (d + 1) / 2,)
    or (C, d · (d + 1) / 2), each int32 where that holds it, else int64."""
    return {"counts": statistics.counts, "sums": _narrow(statistics.sums), "moment": _narrow(moment(statistics))}


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
    return from_tensors(tensors, origin, where), origin


def from_tensors(tensors: Mapping[str, np.ndarray], how: Projected, where: str | Path) -> Statistics:
    """Statistics made so, of what `to_tensors` makes. Raises `BundleError` for what cannot be statistics."""
    d, classes = how.dimension, len(tensors.get("counts", ()))
    triangle = (d * (d + 1) // 2,)
    products = triangle if how.moment == "shared" else (classes, *triangle)
    _check_arrays(where, tensors, {"counts": (classes,), "sums": (classes, d), "moment": products})
    counts, sums, moments = (tensors[name].astype(np.int64) for name in ("counts", "sums", "moment"))
    found = Statistics(counts, sums, moments, np.empty((0, d), np.int8))
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
    """Whether no number is larger than examples of int8 can make it, so that sums do not overflow. A moment that is
    shared may have more in it than the examples that are counted (`without_class`)."""
    counts = statistics.counts
    if counts.min(initial=0) < 0 or counts.sum(dtype=float) > MOST:
        return False
    within = (np.abs(statistics.sums) <= LARGEST * counts[:, None]).all()
    most = LARGEST**2 * (counts[:, None] if statistics.kind == "each" else MOST)
    return bool(within and (np.abs(statistics.moment) <= most).all())
