"""Class statistics of units that a device has taught: begun anew, from the images that are stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.data import Examples
from ..core.learning import PORTION
from ..core.statistics import added
from ..model import Model
from .counted import Anew
from .store import Store
from .tables import BUNDLES, JUDGING, LEARNED, PENDING, REFUSED


def anew(store: Store, model: Model) -> Anew:
    """All that is stored, the bundle's examples among it, by the units of a model; a portion of the images at a
    time."""
    how, stored = model.manifest.counted, store.ids(BUNDLES, PENDING, LEARNED, REFUSED, JUDGING)
    assert how
    ids, seen = [id for some in stored.values() for id in some], list[np.ndarray]()
    found = how.none(len(store.classes()))
    for portion in portions(ids):
        read = store.read(portion)
        seen.append(model.examples(read.pixels))
        found = added(found, how.of(seen[-1], read.labels, found.classes))
    return Anew(tuple(ids), np.concatenate(seen), found)


def portions(ids: Sequence[int]) -> list[Sequence[int]]:
    """Ids of as many images at a time as are in memory together."""
    return [ids[start : start + PORTION] for start in range(0, len(ids), PORTION)]


def examples_of(model: Model) -> int:
    """How many examples the class statistics of a model are of: the bundle's among them, unless they are of others'
    units."""
    weights = model.weights
    own = weights.statistics.counts.sum() if weights.statistics else 0
    return int(own + (0 if weights.alone else model.bundle.statistics().counts.sum()))


def joined(*some: Examples) -> Examples:
    """All examples of some sets."""
    pixels, labels = zip(*((one.pixels, one.labels) for one in some), strict=True)
    return Examples(np.concatenate(pixels), np.concatenate(labels))
