"""Class statistics on a chip, as `src/ffcount.c` has them: what lies in flash, and what is counted in RAM."""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from ffruntime.core.bundle import Bundle
from ffruntime.core.errors import BundleError
from ffruntime.core.layers import statistics_features
from ffruntime.core.manifest import ClassStatistics, Manifest
from ffruntime.core.projection import kept_rows, shift
from ffruntime.core.statistics import Statistics, scatter, upper

LARGEST_DIMENSION = 128  # whose statistics a chip has room for
LARGEST_COLUMN = 1 << 16  # of the Hadamard matrix: uint16
MOST_COUNTED = 1 << 24  # FF_MOST_COUNTED of src/ffparts.h: their sums are int32
ORIGIN_BYTES = 8 * 17  # FF_ORIGINS × FF_ORIGIN_BYTES of src/ffedge.h
COUNTS, MOMENT, SUMS = NAMES = ("statistics.counts", "statistics.moment", "statistics.sums")  # of a state file


class Counting(Struct, frozen=True):
    """What `struct ff_counting` holds of a bundle."""

    how: ClassStatistics
    shift: int
    rows: np.ndarray  # uint16 (d,): of the Hadamard matrix, those that are kept
    prior: np.ndarray  # float32 (d · (d + 1) / 2,): upper triangle, row by row, of the covariance times `examples`
    statistics: Statistics
    examples: float  # that the prior counts as

    @property
    def share(self) -> float:
        """What of `examples` is isotropic."""
        return self.how.shrinkage.examples * self.how.shrinkage.share


def dimension_on_chip(manifest: Manifest) -> int:
    """Numbers of an example; 0: the bundle has no class statistics, more than a chip has room for, or some that
    its code does not know: with a moment of each class, or of square roots."""
    how = manifest.counted
    if how is None or statistics_features(manifest.network) > LARGEST_COLUMN:
        return 0
    if how.moment != "shared" or how.root:
        return 0
    return how.dimension if how.dimension <= LARGEST_DIMENSION else 0


def counting(bundle: Bundle) -> Counting | None:
    """A bundle's class statistics for a chip; None where it has none there. Raises `BundleError`."""
    how = bundle.manifest.counted
    if how is None or not dimension_on_chip(bundle.manifest):
        return None
    found = bundle.statistics()
    if int(found.counts.max(initial=0)) > MOST_COUNTED:
        raise BundleError(f"{bundle.path}: class statistics of more than {MOST_COUNTED:,} images of a class")
    return of_statistics(bundle.manifest, found)


def of_statistics(manifest: Manifest, found: Statistics) -> Counting:
    """The covariance of the training set alone is the prior, as `solve` of `gaussians.py` makes it."""
    how, features = manifest.counted, statistics_features(manifest.network)
    assert how
    n, shrinkage = int(found.counts.sum()), how.shrinkage
    examples, triangle = shrinkage.examples * shrinkage.share, upper(how.dimension)
    prior = np.diag(np.full(how.dimension, shrinkage.isotropic))
    if n:
        rest = shrinkage.examples * (1 - shrinkage.share)
        prior += rest / n * scatter(found)
        examples += rest
    rows = kept_rows(features, how.dimension, how.seed).astype(np.uint16)
    return Counting(how, shift(features), rows, prior[triangle].astype(np.float32), found, examples)


def buffers(manifest: Manifest) -> dict[str, int]:
    """Bytes of everything in RAM, by its name; empty where a chip has no class statistics."""
    d, rows = dimension_on_chip(manifest), manifest.network.label.patterns
    if not d:
        return {}
    triangle = 4 * d * (d + 1) // 2
    return {
        COUNTS: 8 * rows,
        SUMS: 4 * rows * d,
        MOMENT: triangle,
        "factor": triangle,
        "about": 8,
        "x": 4 * d,
        "v": 4 * d,
        "origins": ORIGIN_BYTES,
    }


def flash_bytes(manifest: Manifest) -> int:
    """Of what the training set's class statistics take."""
    d = dimension_on_chip(manifest)
    return 2 * d + 2 * d * (d + 1) + 4 * len(manifest.classes) * (1 + d) if d else 0


def state_shapes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a state file, of as many classes as there are rows."""
    d, rows = dimension_on_chip(manifest), manifest.network.label.patterns
    return {COUNTS: (rows,), MOMENT: (d * (d + 1) // 2,), SUMS: (rows, d)} if d else {}
