"""Several states as one: what adds up, what is averaged, and what is the same by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from counting import HOW, same
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from shapes import BUNDLE, CLASS_BUNDLE

from ffruntime.core import statistics
from ffruntime.core.bundle import Bundle
from ffruntime.core.errors import UsageError
from ffruntime.core.layers import KNOWN, feature_tensors
from ffruntime.core.manifest import Manifest
from ffruntime.core.merge import Average, Member, Merged, merge, without
from ffruntime.core.relabel import reordered
from ffruntime.core.state import State, Weights, read_state, write_state
from ffruntime.core.statistics import Statistics

D = 8
COUNTED = structs.replace(Bundle(CLASS_BUNDLE).manifest, statistics=structs.replace(HOW, dimension=D))
EACH = structs.replace(COUNTED, statistics=structs.replace(HOW, dimension=D, moment="each"))
OWN = Bundle(CLASS_BUNDLE).weights()
READOUT = "unit1.readout.weight"
NAMES = ("half", "moon", "star")


def member(
    name: str,
    tensors: dict[str, np.ndarray] | None = None,
    new: tuple[str, ...] = (),
    told: Statistics | None = None,
    examples: int = 10,
    undertrained: tuple[str, ...] = (),
    manifest: Manifest = COUNTED,
) -> Member:
    """A state of the device `name`, in a file with that hash."""
    classes = (*manifest.classes, *new)
    weights = Weights(tensors or {}, classes, frozenset(undertrained), told)
    state = State(1, "0" * 64, classes, undertrained, 1, examples, "0", origins=(name,))
    return Member(name, name, weights, state)


def merged(*members: Member, manifest: Manifest = COUNTED, average: Average | None = None, **more: bool) -> Merged:
    return merge(manifest, OWN, members, average, **more)


def again(found: Merged, name: str) -> Member:
    """A merge as a file that is merged once more."""
    weights = found.weights
    undertrained = tuple(sorted(weights.undertrained))
    state = State(1, "0" * 64, weights.classes, undertrained, found.updates, found.examples, "0")
    return Member(name, name, weights, structs.replace(state, origins=found.origins), found.members)


def by_name(found: Merged) -> dict[str, tuple[int, bytes]]:
    told = found.weights.statistics
    assert told
    rows = zip(found.weights.classes, told.counts.tolist(), told.sums, strict=True)
    return {name: (count, sums.tobytes()) for name, count, sums in rows}


def readout(**rows: float) -> dict[str, np.ndarray]:
    """A readout in which the first number of some rows is larger than the bundle's; new ones are known."""
    weight, known = OWN[READOUT].copy(), OWN[KNOWN].copy()
    for label, more in rows.items():
        weight[int(label[1:]), 0] += more
        known[int(label[1:])] = 1
    return {READOUT: weight, KNOWN: known}


# --- class statistics


@st.composite
def fleets(draw: st.DrawFn, devices: int = 3) -> list[tuple[tuple[str, ...], np.ndarray, np.ndarray]]:
    """What devices are shown: at most two new classes each in an order of its own, examples and labels."""
    found, spare = [], draw(st.permutations(NAMES))[:2]
    for _ in range(devices):
        new = tuple(draw(st.permutations(spare))[: draw(st.integers(0, 2))])
        count = draw(st.integers(0, 6))
        x = np.array(draw(st.lists(st.integers(-127, 127), min_size=count * D, max_size=count * D)), np.int8)
        labels = draw(st.lists(st.integers(0, 5 + len(new)), min_size=count, max_size=count))
        found.append((new, x.reshape(count, D), np.array(labels, int)))
    return found


@pytest.mark.parametrize("manifest", [COUNTED, EACH], ids=["shared", "each"])
@settings(max_examples=30)
@given(fleet=fleets())
def test_statistics_are_those_of_one_device_that_saw_everything(
    manifest: Manifest, fleet: list[tuple[tuple[str, ...], np.ndarray, np.ndarray]]
) -> None:
    """To the bit, by class name, in whatever order and grouping; and what one counted can be taken out again."""
    how = manifest.statistics
    assert how
    members = [
        member(str(place), new=new, told=how.of(x, labels, 6 + len(new)), manifest=manifest)
        for place, (new, x, labels) in enumerate(fleet)
    ]
    found = merged(*members, manifest=manifest)
    names = found.weights.classes
    assert names[:6] == manifest.classes
    assert set(names[6:]) == {name for new, *_ in fleet for name in new}
    label = [[names.index((*manifest.classes, *new)[own]) for own in labels.tolist()] for new, _, labels in fleet]
    x, labels = np.concatenate([x for _, x, _ in fleet]), np.array([one for some in label for one in some], int)
    expected = how.of(x, labels, len(names))
    told = found.weights.statistics
    assert told
    for one, other in zip(
        statistics.to_tensors(told).items(), statistics.to_tensors(expected).items(), strict=True
    ):
        np.testing.assert_array_equal(one[1], other[1])
    turned = merged(*members[::-1], manifest=manifest)
    assert (turned.weights.classes, by_name(turned)) == (names, by_name(found))
    for left, right in ((members[:2], members[2:]), (members[:1], members[1:])):
        pair = [again(merged(*some, manifest=manifest), f"of {len(some)}") for some in (left, right)]
        assert by_name(merged(*pair, manifest=manifest)) == by_name(found)
    weights, state = without(again(found, "all"), members[1])
    rest = weights.statistics or how.none(len(names))
    others = merged(members[0], members[2], manifest=manifest).weights
    theirs = reordered(manifest, OWN, others, names).statistics
    assert theirs
    np.testing.assert_array_equal(rest.sums, theirs.sums)
    np.testing.assert_array_equal(statistics.moment(rest), statistics.moment(theirs))
    assert state.origins == ("0", "2")


def test_the_merge_of_one_is_that_one(tmp_path: Path) -> None:
    told = COUNTED.statistics.of(np.ones((3, D), np.int8), np.array([6, 7, 6]), 8)  # type: ignore[union-attr]
    weights = Weights(readout(r0=1, r6=2), (*COUNTED.classes, "star", "half"), frozenset({"half"}), told)
    write_state(tmp_path / "one.state", COUNTED, weights, 3, 40, ("a",))
    read, state = read_state(tmp_path / "one.state", COUNTED)
    found = merged(Member("one", "1", read, state), average="nothing")
    write_state(
        *(tmp_path / "merged.state", COUNTED, found.weights, found.updates, found.examples),
        *(found.origins, None, found.members),
    )
    once_more, same_state = read_state(tmp_path / "merged.state", COUNTED)
    assert same_state == state
    assert once_more.tensors.keys() == read.tensors.keys()
    for name, tensor in once_more.tensors.items():
        np.testing.assert_array_equal(tensor, read.tensors[name])
    assert same(once_more.statistics, told)


def test_examples_do_not_count_twice() -> None:
    one, newer = member("a"), structs.replace(member("b"), state=structs.replace(member("a").state, examples=90))
    with pytest.raises(UsageError, match=r"a and b both hold examples of device a, which would count twice"):
        merged(one, newer)
    both = again(merged(member("a"), member("b")), "both")
    with pytest.raises(UsageError, match="would count twice"):
        merged(both, member("b"))
    nameless = structs.replace(both, state=structs.replace(both.state, origins=()))
    with pytest.raises(UsageError, match="both hold file b"):
        merged(nameless, structs.replace(member("b"), state=structs.replace(member("b").state, origins=())))


def test_what_is_not_in_a_merge_cannot_be_taken_out() -> None:
    both = again(merged(member("a"), member("b")), "both")
    with pytest.raises(UsageError, match=r"c: the class statistics of both do not have this file's"):
        without(both, member("c"))


def test_statistics_of_other_units_are_refused() -> None:
    """Of a member whose units are others, and of all where units are averaged; the bundle's count."""
    told = COUNTED.statistics.of(np.ones((2, D), np.int8), np.array([0, 1]), 6)  # type: ignore[union-attr]
    unit = feature_tensors(COUNTED.network)[0]
    taught = {unit: OWN[unit] + 1}
    one, other = member("a", taught, told=told), member("b", told=told)
    found = merged(one, other, average="readouts")
    assert found.weights.statistics
    assert found.weights.statistics.counts.sum() == 2
    assert [(left.member, left.part) for left in found.left_out] == [("a", "readouts"), ("a", "statistics")]
    assert found.weights.tensors == {}
    assert found.members == ("b",)
    averaged = merged(one, other, average="units")
    np.testing.assert_allclose(averaged.weights.tensors[unit], OWN[unit] + 0.5, atol=1e-6)
    assert averaged.weights.statistics is None
    assert [(left.member, left.part) for left in averaged.left_out] == [("a", "statistics"), ("b", "statistics")]


# --- weights


@given(st.permutations([("a", 10, 1.0), ("b", 30, 2.5), ("c", 0, 7.0)]))
def test_readouts_are_averaged_by_examples(order: list[tuple[str, int, float]]) -> None:
    members = [member(name, readout(r0=more), examples=count) for name, count, more in order]
    found = merged(*members, average="readouts")
    expected = OWN[READOUT].copy()
    expected[0, 0] += (10 * 1.0 + 30 * 2.5) / 40
    np.testing.assert_allclose(found.weights.tensors[READOUT], expected, rtol=1e-6)
    first = merged(*sorted(members, key=lambda one: one.digest), average="readouts")
    np.testing.assert_array_equal(found.weights.tensors[READOUT], first.weights.tensors[READOUT])
    assert (found.updates, found.examples, found.origins) == (3, 40, ("a", "b", "c"))
    some = {one.name: one for one in members}
    grouped = merged(again(merged(some["a"], some["c"], average="readouts"), "ac"), some["b"], average="readouts")
    np.testing.assert_allclose(grouped.weights.tensors[READOUT], expected, rtol=1e-5)


def test_classes_are_the_same_by_name() -> None:
    """One class under two spare rows, and two classes under one; a row is the mean over those who have it."""
    one = member("a", readout(r6=1.0, r7=5.0), ("half", "star"), undertrained=("star",))
    other = member("b", readout(r6=9.0), ("star",))
    found = merged(one, other, average="readouts").weights
    assert found.classes[6:] == ("half", "star")
    assert found.undertrained == {"star"}
    np.testing.assert_allclose(found.tensors[READOUT][6:, 0] - OWN[READOUT][6:, 0], [1.0, 7.0], rtol=1e-5)
    assert found.tensors[KNOWN].tolist() == [1] * 8
    with pytest.raises(UsageError, match="3 new classes, and the bundle has 2 spare"):
        merged(one, member("c", new=("moon",)))


def test_a_class_known_by_statistics_alone_gets_no_row() -> None:
    told = COUNTED.statistics.of(np.ones((2, D), np.int8), np.array([6, 6]), 7)  # type: ignore[union-attr]
    found = merged(
        member("a", readout(r6=1.0), ("half",)), member("b", new=("star",), told=told), average="readouts"
    )
    assert found.weights.classes[6:] == ("half", "star")
    assert found.weights.tensors[KNOWN].tolist() == [1] * 7 + [0]
    assert found.weights.statistics
    assert found.weights.statistics.counts.tolist() == [0] * 7 + [2]


def test_patterns_are_what_units_have_learned() -> None:
    """With the label in the input a class cannot take another pattern: those units are left out, and the class is
    undertrained where nobody's units know it."""
    bundle = Bundle(BUNDLE)
    unit = "unit2.conv1.weight"
    own = bundle.weights()
    members = [
        member(name, {unit: own[unit] + more, "head.bias": own["head.bias"] + more}, new, manifest=bundle.manifest)
        for name, new, more in (("a", ("half",), 1.0), ("b", ("star",), 3.0))
    ]
    found = merge(bundle.manifest, own, members)
    assert found.weights.classes[6:] == ("half", "star")
    np.testing.assert_allclose(found.weights.tensors[unit], own[unit] + 1, rtol=1e-5)
    more = found.weights.tensors["head.bias"] - own["head.bias"]
    np.testing.assert_allclose(more, [1] * 7 + [0], atol=1e-6)  # nobody's classifier has a row for it
    assert [(left.member, left.part) for left in found.left_out] == [("b", "units")]
    assert found.weights.undertrained == {"star"}
    with pytest.raises(UsageError, match="no class statistics"):
        merge(bundle.manifest, own, members, "nothing")


# --- some may lie


def test_one_that_is_poisoned_moves_a_trimmed_mean_little() -> None:
    members = [member(str(place), readout(r0=1.0 + place / 10)) for place in range(9)]
    liar = member("liar", readout(r0=-1e6, r1=1e6), examples=10**9)
    honest = merged(*members, average="readouts").weights.tensors[READOUT]
    plain = merged(*members, liar, average="readouts").weights.tensors[READOUT]
    robust = merged(*members, liar, average="readouts", robust=True).weights.tensors[READOUT]
    assert abs(plain - honest).max() > 1e5
    assert abs(robust - honest).max() < 0.2


def digits(rng: np.random.Generator, labels: list[int], count: int, told_as: list[int] | None = None) -> Statistics:
    """Statistics of examples about the means of classes, which may be told as others."""
    means = np.random.default_rng(7).integers(-80, 80, (6, D))
    truth = rng.choice(labels, count)
    x = np.clip(means[truth] + rng.normal(0, 8, (count, D)), -127, 127).astype(np.int8)
    said = dict(zip(labels, told_as or labels, strict=True))
    how = COUNTED.statistics
    assert how
    return how.of(x, np.array([said[label] for label in truth.tolist()]), 6)


def test_one_that_names_classes_wrongly_is_left_out() -> None:
    rng = np.random.default_rng(0)
    told = [digits(rng, [place % 6, (place + 1) % 6], 60) for place in range(9)]
    wrong = digits(rng, [0, 1], 60, [3, 4])
    members = [member(str(place), told=some) for place, some in enumerate([*told, wrong])]
    found = merged(*members, robust=True)
    assert [(left.member, left.part) for left in found.left_out] == [("9", "everything")]
    assert "looks like" in found.left_out[0].reason
    assert by_name(found) == by_name(merged(*members[:9]))
    assert merged(*members[:9], robust=True).left_out == ()


@pytest.mark.parametrize("lie", ["far", "spread", "impossible"])
def test_one_whose_statistics_are_nobodys(lie: str) -> None:
    rng = np.random.default_rng(1)
    told = [digits(rng, [place % 6, (place + 1) % 6], 60) for place in range(9)]
    last = told[-1]
    x = {
        "far": np.full((60, D), 127, np.int8),
        "spread": rng.choice(np.array([-127, 127], np.int8), (60, D)),
        "impossible": np.zeros((60, D), np.int8),
    }[lie]
    assert COUNTED.statistics
    poisoned = COUNTED.statistics.of(x, np.full(60, 2), 6)
    if lie == "impossible":
        poisoned = structs.replace(last, moment=np.zeros_like(statistics.moment(last)), rows=last.rows[:0])
    members = [member(str(place), told=some) for place, some in enumerate([*told[:-1], poisoned])]
    assert [left.member for left in merged(*members, robust=True).left_out] == ["8"]


def test_one_counts_at_most_three_times_as_much_as_the_median() -> None:
    rng = np.random.default_rng(2)
    told = [digits(rng, [0, 1, 2], 50) for _ in range(4)] + [digits(rng, [0, 1, 2], 5000)]
    found = merged(*(member(str(place), told=some) for place, some in enumerate(told)), robust=True)
    assert found.weights.statistics
    assert 340 <= found.weights.statistics.counts.sum() <= 350
    assert found.members == ("0", "1", "2", "3")  # the fifth is in it, but not as it was
