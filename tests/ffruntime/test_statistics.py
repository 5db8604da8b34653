"""Class statistics: integers that are exact in any order, and the projection that examples are made by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from counting import CLASSES, D, Some, examples
from hypothesis import given, settings
from hypothesis import strategies as st

from ffruntime.core import statistics
from ffruntime.core.bundle import Bundle
from ffruntime.core.errors import BundleError
from ffruntime.core.layers import feature_tensors, statistics_features
from ffruntime.core.projection import project
from ffruntime.core.statistics import Moment, Projected, Statistics

HOW = Projected(D, 7)
EACH = Projected(D, 7, "each")
ORIGIN = HOW.origin("0" * 64)
BOTH = pytest.mark.parametrize("how", [HOW, EACH], ids=["shared", "each"])


def equal(one: Statistics, other: Statistics) -> bool:
    """Bit for bit."""
    parts = ((some.counts, some.sums, statistics.moment(some)) for some in (one, other))
    return all(a.dtype == b.dtype == np.int64 and np.array_equal(a, b) for a, b in zip(*parts, strict=True))


def one_by_one(x: np.ndarray, labels: np.ndarray, how: Projected) -> Statistics:
    """By the definition, in Python's integers."""
    rows, n = x.astype(int).tolist(), len(x)
    counts = [sum(int(label == c) for label in labels) for c in range(CLASSES)]
    sums = [[sum(rows[k][i] for k in range(n) if labels[k] == c) for i in range(D)] for c in range(CLASSES)]
    groups = [range(n)] if how.moment == "shared" else [np.flatnonzero(labels == c) for c in range(CLASSES)]
    each = [[sum(rows[k][i] * rows[k][j] for k in own) for i in range(D) for j in range(i, D)] for own in groups]
    moment = each[0] if how.moment == "shared" else each
    return Statistics(*(np.array(values, np.int64) for values in (counts, sums, moment)), x[:0])


@BOTH
@settings(max_examples=50, deadline=None)
@given(some=examples(), random=st.randoms(use_true_random=False))
def test_order_does_not_matter(how: Projected, some: Some, random: object) -> None:
    """Added at once, one after the other in any order, or in parts that are merged: the same bits."""
    x, labels = some
    whole = how.of(x, labels, CLASSES)
    assert whole.kind == how.moment
    assert equal(whole, one_by_one(x, labels, how))
    order = list(range(len(x)))
    random.shuffle(order)  # type: ignore[attr-defined]
    total = how.none(0)
    for k in order:
        total = statistics.added(total, how.of(x[[k]], labels[[k]], int(labels[k]) + 1))
    assert equal(statistics.with_classes(total, CLASSES), whole)
    half = len(x) // 2
    parts = [how.of(x[some], labels[some], CLASSES) for some in (slice(half, None), slice(half))]
    assert equal(statistics.added(*parts), whole)


def test_examples_beyond_a_few_are_added_up() -> None:
    """Rows are kept as they are, up to a number; the moment is the same whether they are or not."""
    x = np.random.default_rng(3).integers(-127, 128, (2 * statistics.ROWS, D), np.int8)
    total, labels = statistics.none(1, D), np.zeros(len(x), int)
    for k in range(len(x)):
        total = statistics.added(total, statistics.of(x[[k]], labels[[k]], 1))
        assert len(total.rows) <= statistics.ROWS
    assert total.moment.any()
    assert len(total.rows)
    assert equal(total, statistics.of(x, labels, 1))
    np.testing.assert_allclose(statistics.scatter(total), len(x) * np.cov(x.T.astype(float), bias=True), atol=1e-3)


def test_no_sum_can_overflow() -> None:
    """So many examples are refused that sums of their products could reach 2⁶³."""
    some = statistics.of(np.full((1, D), -128, np.int8), np.zeros(1, int), 1)
    many = Statistics(some.counts + statistics.MOST - 1, some.sums, some.moment, some.rows)
    with pytest.raises(OverflowError):
        statistics.added(many, some)
    assert statistics.MOST * 128**2 < 1 << 63


@BOTH
@settings(max_examples=30, deadline=None)
@given(some=examples())
def test_a_file_gives_back_what_was_written(how: Projected, some: Some) -> None:
    found, whose = how.of(*some, CLASSES), how.origin("0" * 64)
    read, origin = statistics.decode(statistics.encode(found, whose), "here")
    assert equal(read, found)
    assert (read.kind, origin) == (how.moment, whose)


def test_a_file_holds_more_than_int32_can() -> None:
    some = statistics.of(np.full((2, D), 100, np.int8), np.zeros(2, int), 1)
    many = Statistics(some.counts << 30, some.sums << 30, statistics.moment(some) << 30, some.rows[:0])
    data = statistics.encode(many, ORIGIN)
    assert equal(statistics.decode(data, "here")[0], many)
    assert len(data) > len(statistics.encode(some, ORIGIN))


def replaced(data: bytes, change: Callable[[dict[str, np.ndarray], dict[str, object]], None]) -> bytes:
    from safetensors.numpy import load, save

    tensors = load(data)
    origin = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["statistics"])
    change(tensors, origin)
    return save(tensors, {"statistics": json.dumps(origin)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t, _: t.update(counts=-t["counts"]), "no examples have"),
        (lambda t, _: t.update(sums=t["sums"] * 200), "no examples have"),
        (lambda t, _: t.update(moment=t["moment"].astype(np.int64) << 50), "no examples have"),
        (lambda t, _: t.update(counts=t["counts"] + (1 << 62)), "no examples have"),
        (lambda t, _: t.update(moment=t["moment"][1:]), "'moment' is missing, or not"),
        (lambda t, _: t.update(sums=t["sums"].astype(np.float32)), "'sums' is missing, or not"),
        (lambda t, _: t.pop("counts"), "'counts' is missing, or not"),
        (lambda _, o: o.update(format=2), "format 2 is none"),
        (lambda _, o: o.update(units="?"), "no class statistics, or damaged"),
        (lambda _, o: o.update(dimension=0), "no class statistics, or damaged"),
        (lambda _, o: o.update(moment="each"), "'moment' is missing, or not"),
        (lambda _, o: o.update(moment="?"), "no class statistics, or damaged"),
    ],
)
def test_a_file_that_cannot_be_is_refused(change: Callable, said: str) -> None:
    data = statistics.encode(statistics.of(np.full((3, D), 90, np.int8), np.array([0, 1, 1]), 2), ORIGIN)
    with pytest.raises(BundleError, match=said):
        statistics.decode(replaced(data, change), "here")
    with pytest.raises(BundleError, match="no class statistics, or damaged"):
        statistics.decode(data[:-1], "here")


@pytest.mark.parametrize(("count", "dimension"), [(1, 1), (5, 5), (48, 20), (2688, 432), (140_000, 3)])
def test_projection_is_the_transform(count: int, dimension: int) -> None:
    """Row by row by the definition of Sylvester's matrix, in integers; the largest one is computed in float64."""
    features = np.abs(np.random.default_rng(2).normal(0, 1.2, (2, count))).astype(np.float32)
    found = project(features, dimension, 3)
    assert (found.shape, found.dtype) == ((2, dimension), np.int8)
    quantized = np.clip(np.rint(features.astype(float) * 16), -127, 127).astype(np.int64)
    padded = 1 << (count - 1).bit_length()
    numbers = [splitmix(3, k) for k in range(count + padded)]
    signs = np.array([-1 if number >> 63 else 1 for number in numbers[:count]])
    rows = sorted(sorted(range(padded), key=lambda row: numbers[count + row])[:dimension])
    shift = max(0, int(np.ceil(np.log2(np.sqrt(count) / 2))))
    for place, row in list(enumerate(rows))[:20]:
        ones = np.array([bin(row & column).count("1") & 1 for column in range(count)])
        total = (quantized * signs * (1 - 2 * ones)).sum(1)
        np.testing.assert_array_equal(found[:, place], np.clip((total + (1 << shift >> 1)) >> shift, -127, 127))


def splitmix(seed: int, place: int) -> int:
    """The number at a place, in Python's integers; published for seed 1234567: 6457827717110365317 first."""
    mask = (1 << 64) - 1
    z = (seed + (place + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_the_generator_is_the_published_one() -> None:
    assert [splitmix(1234567, k) for k in range(2)] == [6457827717110365317, 3203168211198807973]


def test_projection_is_the_same_everywhere() -> None:
    """What was computed once, of integers: any other result is another format."""
    features = (np.arange(3 * 300) % 97 / 16).reshape(3, 300)
    digest = hashlib.sha256(project(features, 64, 0).tobytes()).hexdigest()
    assert digest == "f056f853139f2aa7fd2647b7f8c9fac2d68d689ff1b8fed5c34cad861fc7e019"


def test_projected_examples_use_their_range() -> None:
    """Of features whose mean square is 1, few are cut off, and most are more than rounding."""
    features = np.abs(np.random.default_rng(4).normal(size=(200, 2688)))
    found = project(features.astype(np.float32), 432, 0).astype(int)
    assert 10 < found.std() < 40
    assert (np.abs(found) == 127).mean() < 1e-3


@pytest.mark.parametrize(("moment", "step", "expected"), [("shared", 16, 432), ("each", 8, 120)])
def test_the_default_dimension_keeps_to_its_bytes(moment: Moment, step: int, expected: int) -> None:
    assert statistics.default_dimension(50, 12, moment=moment) == 50
    largest = statistics.default_dimension(5000, 12, moment=moment)
    assert largest == expected
    assert statistics.kept_bytes(largest, 12, moment) <= statistics.KEPT_BYTES
    assert statistics.kept_bytes(largest + step, 12, moment) > statistics.KEPT_BYTES
    how = Projected(largest, 0, moment)
    written = statistics.encode(how.none(10), how.origin("0" * 64))
    assert 0 <= len(written) - how.kept_bytes(10) < 600


@settings(max_examples=30, deadline=None)
@given(some=examples())
def test_a_class_that_has_a_moment_of_its_own_is_taken_out_exactly(some: Some) -> None:
    """As if it had never been; and there may be fewer classes then, or more."""
    x, labels = some
    without = statistics.without_class(EACH.of(x, labels, CLASSES), CLASSES - 1)
    others = labels < CLASSES - 1
    assert equal(without, EACH.of(x[others], labels[others], CLASSES))
    assert equal(statistics.with_classes(without, CLASSES - 1), EACH.of(x[others], labels[others], CLASSES - 1))
    more = statistics.with_classes(without, CLASSES + 2)
    assert equal(more, EACH.of(x[others], labels[others], CLASSES + 2))


def test_what_no_examples_of_a_class_have_is_refused() -> None:
    """A moment of its own has no more in it than the examples that are counted."""
    tensors = statistics.to_tensors(EACH.of(np.full((3, D), 90, np.int8), np.array([0, 1, 1]), 2))
    tensors["moment"] = tensors["moment"] * 4
    with pytest.raises(BundleError, match="no examples have"):
        statistics.from_tensors(tensors, EACH, "here")


def test_examples_may_be_made_of_square_roots() -> None:
    """Which keep the features' signs."""
    features = np.random.default_rng(5).normal(size=(4, 60)).astype(np.float32)
    found = project(features, 20, 1, root=True)
    np.testing.assert_array_equal(found, project(np.sign(features) * np.sqrt(np.abs(features)), 20, 1))
    np.testing.assert_array_equal(found, Projected(20, 1, root=True).project(features))
    assert not np.array_equal(found, project(features, 20, 1))


@pytest.mark.parametrize("name", ["classes", "shapes"])
def test_statistics_belong_to_units(name: str) -> None:
    """What features are made with, and nothing that reads them; the graphs put out as many features."""
    bundle = Bundle(Path(__file__).parents[1] / "fixtures" / f"{name}.ff")
    network, weights = bundle.manifest.network, bundle.weights()
    own = statistics.units_hash(network, weights)
    assert own == bundle.units_hash
    for tensor, values in weights.items():
        other = statistics.units_hash(network, {**weights, tensor: values + 1})
        assert (other != own) == (tensor in feature_tensors(network)), tensor
    reading = {"labels.known", "total.weights", "head.weight", "head.bias", "labels.patterns"}
    readouts = {tensor for tensor in weights if ".readout." in tensor}
    assert set(weights) - set(feature_tensors(network)) == (reading & set(weights)) | readouts
    assert statistics_features(network) > 0
