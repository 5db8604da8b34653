"""Class statistics of units that a device has taught: begun anew, from the images that are stored."""

from __future__ import annotations

import numpy as np

from ..core.data import Examples
from ..core.statistics import of
from ..model import Model
from .counted import Anew
from .database import BUNDLES, JUDGING, LEARNED, PENDING, REFUSED
from .store import Store


def anew(store: Store, model: Model) -> Anew:
    """All that is stored, the bundle's examples among it, by the units of a model."""
    stored = store.ids(BUNDLES, PENDING, LEARNED, REFUSED, JUDGING)
    ids = [id for some in stored.values() for id in some]
    read = store.read(ids)
    x = model.examples(read.pixels)
    return Anew(tuple(ids), x, of(x, read.labels, len(store.classes())))


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
