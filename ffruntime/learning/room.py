"""What has to leave the store, so that it keeps to its budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..core.learning import EVERY
from .database import BUNDLES, JUDGING, LEARNED, REFUSED
from .draws import evictions as reservoir
from .store import Store


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


def _refused(store: Store) -> list[int]:
    """Ids of examples of refused updates, oldest first."""
    return sorted(id for some in store.ids(REFUSED).values() for id in some)
