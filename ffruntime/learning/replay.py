"""Replay: which stored examples are shown again, and which leave the store so that it keeps to its budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..core.learning import EVERY
from .store import Store
from .tables import BUNDLES, JUDGING, LEARNED, REFUSED


def draw_balanced(stored: Mapping[int, Sequence[int]], count: int, rng: np.random.Generator) -> list[int]:
    """`count` ids, each of a class drawn evenly, then evenly from the class: label -> ids of its examples."""
    classes = sorted(label for label, ids in stored.items() if ids)
    chosen = (stored[classes[int(rng.integers(len(classes)))]] for _ in range(count))
    return [ids[int(rng.integers(len(ids)))] for ids in chosen]


def capacity(store: Store) -> int:
    """Examples that may be stored."""
    return int(store.setting("replay_bytes") or 0) // math.prod(store.manifest.network.image.shape)


def evictions(
    store: Store, ids: Sequence[int], seen: Mapping[int, int], rng: np.random.Generator, spare: int = 0
) -> list[int]:
    """Stored examples that have to make room for `ids`, and for `spare` more: judging ones beyond a fifth of the
    room, then of refused updates, then by the reservoir.

    `seen`: label -> how many examples were ever learned from.
    """
    stored, refused, judging = store.ids(BUNDLES, LEARNED), _refused(store), store.ids(JUDGING)
    arrived = list(zip(ids, store.read(ids).labels.tolist(), strict=True))
    done = beyond(judging, capacity(store) // EVERY)
    room = capacity(store) - spare - (sum(map(len, judging.values())) - len(done))
    gone = refused[: max(0, len(ids) + sum(map(len, stored.values())) + len(refused) - room)]
    return [*done, *gone, *reservoir(stored, seen, arrived, room - (len(refused) - len(gone)), rng)]


def of_refused(store: Store, ids: Sequence[int]) -> list[int]:
    """Examples of updates that were refused before that there is no room for, where one of `ids` is refused, too:
    the oldest. Those of now can be tried again."""
    others = sum(map(len, store.ids(BUNDLES, LEARNED, JUDGING).values())) + len(ids)
    refused = _refused(store)
    return refused[: max(0, others + len(refused) - capacity(store))]


def beyond(judging: Mapping[int, Sequence[int]], most: int) -> list[int]:
    """Of judging examples, ids by label, those that go so that `most` are left: the oldest of the largest class."""
    kept, gone = {label: list(ids) for label, ids in judging.items()}, list[int]()
    while sum(map(len, kept.values())) > most:
        gone.append(max(kept.values(), key=len).pop(0))
    return gone


def reservoir(
    stored: Mapping[int, Sequence[int]],
    seen: Mapping[int, int],
    arrived: Sequence[tuple[int, int]],
    capacity: int,
    rng: np.random.Generator,
) -> list[int]:
    """Ids that have to go so that `capacity` examples are left: a class-balanced reservoir (Chrysakis, Moens 2020).

    `stored`: label -> ids, those in `arrived` not among them; `seen`: label -> how many ever came, those in
    `arrived` not counted; `arrived`: (id, label) in the order in which they came. While there is no room, a
    newcomer of a class that is not the largest takes the place of one of the largest; of the largest class itself,
    it stays with the chance that every one of its class ever seen has.
    """
    kept = {label: list(ids) for label, ids in stored.items()}
    count, total, gone = dict(seen), sum(map(len, kept.values())), []
    for new, label in arrived:
        count[label] = count.get(label, 0) + 1
        mine = kept.setdefault(label, [])
        mine.append(new)
        total += 1
        if total <= capacity:
            continue
        largest = max(map(len, kept.values()))
        if len(mine) == largest:
            stays = rng.random() < (largest - 1) / count[label]
            victims, index = mine, int(rng.integers(largest - 1)) if stays and largest > 1 else largest - 1
        else:
            full = sorted(other for other, ids in kept.items() if len(ids) == largest)
            victims, index = kept[full[int(rng.integers(len(full)))]], int(rng.integers(largest))
        gone.append(victims.pop(index))
        total -= 1
    while total > capacity:  # a budget that has become smaller
        largest_label = max(sorted(kept), key=lambda one: len(kept[one]))
        victims = kept[largest_label]
        gone.append(victims.pop(int(rng.integers(len(victims)))))
        total -= 1
    return gone


def _refused(store: Store) -> list[int]:
    """Ids of examples of refused updates, oldest first."""
    return sorted(id for some in store.ids(REFUSED).values() for id in some)
