"""Which examples are replayed, and which make room."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ffruntime.learning.replay import draw_balanced, reservoir


def test_classes_are_drawn_evenly_whatever_their_size() -> None:
    stored = {0: list(range(100)), 1: [100], 2: [], 3: [101, 102]}
    drawn = Counter(draw_balanced(stored, 6000, np.random.default_rng(0)))
    assert set(drawn) == set(range(103))
    assert abs(drawn[100] - 2000) < 200
    assert abs(drawn[101] - 1000) < 200


states = st.dictionaries(st.integers(0, 4), st.integers(0, 12), max_size=5)
streams = st.lists(st.integers(0, 4), max_size=60)


def numbered(sizes: dict[int, int], stream: list[int]) -> tuple[dict[int, list[int]], list[tuple[int, int]]]:
    """Stored ids by label, and what arrives after them, as (id, label)."""
    ids = iter(range(1, 1000))
    stored = {label: [next(ids) for _ in range(size)] for label, size in sizes.items()}
    return stored, [(next(ids), label) for label in stream]


@given(sizes=states, stream=streams, capacity=st.integers(0, 40), seed=st.integers(0, 99))
def test_so_many_are_left_and_nobody_goes_twice(
    sizes: dict[int, int], stream: list[int], capacity: int, seed: int
) -> None:
    stored, arrived = numbered(sizes, stream)
    gone = reservoir(stored, sizes, arrived, capacity, np.random.default_rng(seed))
    there = {id for ids in stored.values() for id in ids} | {id for id, _ in arrived}
    assert len(gone) == len(set(gone))
    assert set(gone) <= there
    assert len(gone) == max(0, len(there) - capacity)  # and none where there is room
    assert gone == reservoir(stored, sizes, arrived, capacity, np.random.default_rng(seed))
    assert stored == numbered(sizes, stream)[0]  # what came in stays as it is


@given(sizes=states, stream=streams, capacity=st.integers(5, 40), seed=st.integers(0, 99))
def test_only_a_largest_class_gives_way(sizes: dict[int, int], stream: list[int], capacity: int, seed: int) -> None:
    """So a class that is smaller than an even share loses nothing, and from an even beginning none gets ahead."""
    stored, arrived = numbered(sizes, stream)
    gone = set(reservoir(stored, sizes, arrived, capacity, np.random.default_rng(seed)))
    label = {id: one for one, ids in stored.items() for id in ids} | dict(arrived)
    came = Counter(label.values())
    left = Counter(one for id, one in label.items() if id not in gone)
    share = capacity // max(1, len(came))
    for one, count in came.items():
        assert left[one] >= min(count, share)


@given(capacity=st.integers(4, 30), seed=st.integers(0, 99))
def test_balanced_within_one_whatever_the_order(capacity: int, seed: int) -> None:
    stream = [label for label in range(4) for _ in range(40)]  # class after class
    _, arrived = numbered({}, stream)
    gone = set(reservoir({}, {}, arrived, capacity, np.random.default_rng(seed)))
    left = Counter(one for id, one in arrived if id not in gone)
    assert max(left.values()) - min(left[label] for label in range(4)) <= 1


def test_every_example_of_a_class_has_the_same_chance() -> None:
    """Early or late: an example of 40 stays in 10 places with a chance of a quarter (reservoir sampling)."""
    stayed = np.zeros(40)
    for seed in range(2000):
        gone = reservoir({}, {}, [(id, 0) for id in range(40)], 10, np.random.default_rng(seed))
        stayed[[id for id in range(40) if id not in gone]] += 1
    np.testing.assert_allclose(stayed / 2000, 0.25, atol=0.05)
