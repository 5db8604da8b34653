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


def joined(*some: Examples) -> Examples:
    """All examples of some sets."""
    pixels, labels = zip(*((one.pixels, one.labels) for one in some), strict=True)
    return Examples(np.concatenate(pixels), np.concatenate(labels))
