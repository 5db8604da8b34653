"""The committed bundle of class goodness with class statistics, and a class that it never saw."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from msgspec import structs

from ffruntime.core import statistics
from ffruntime.core.bundle import write_bundle
from ffruntime.core.gaussians import Shrinkage, Weight
from ffruntime.core.manifest import STATISTICS, ClassStatistics
from ffruntime.core.statistics import Statistics
from ffruntime.model import Model
from ffruntime.session import Session

NEW = "half"  # dark above, bright below
HOW = ClassStatistics(
    *(40, 0), shrinkage=Shrinkage(0.2, 100.0, 50.0), together=6, weights={"goodness": Weight(0.002, 0.05)}
)
EACH = structs.replace(HOW, moment="each", root=True, dimension=24)


def halves(count: int, seed: int = 0) -> np.ndarray:
    """Images of the new class, uint8 (N, 1, 16, 16)."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 60, (count, 1, 16, 16), dtype=np.uint8)
    for image, edge in zip(images, rng.integers(6, 11, count), strict=True):
        image[0, edge:] += 180
    return images


def with_statistics(source: Path, path: Path, how: ClassStatistics = HOW) -> Path:
    """A copy of the bundle at `path`, with statistics of its exemplars."""
    shutil.copytree(source, path)
    model = Model(path, session=Session(threads=1), state=False)
    write_bundle(path, structs.replace(model.manifest, statistics=how), {})
    model = Model(path, session=Session(threads=1), state=False)
    exemplars = model.bundle.exemplars()
    found = how.of(model.examples(exemplars.pixels), exemplars.labels, 6)
    write_bundle(path, model.manifest, {STATISTICS: statistics.encode(found, how.origin(model.bundle.units_hash))})
    return path


def shown(model: Model, images: np.ndarray, labels: list[int]) -> Statistics:
    """Statistics of images with these labels, computed from nothing."""
    how = model.manifest.statistics
    assert how
    return how.of(model.examples(images), np.array(labels, int), 12)


def same(one: Statistics | None, other: Statistics | None) -> bool:
    """Bit for bit, but for classes without examples at the end."""
    assert one
    assert other
    classes = max(one.classes, other.classes)
    one, other = (statistics.with_classes(some, classes) for some in (one, other))
    parts = ((some.counts, some.sums, statistics.moment(some)) for some in (one, other))
    return all(np.array_equal(a, b) for a, b in zip(*parts, strict=True))


D, CLASSES = 6, 4  # of examples that are drawn
Some = tuple[np.ndarray, np.ndarray]  # examples int8 (N, D), labels (N,)


@st.composite
def examples(draw: st.DrawFn, least: int = 0) -> Some:
    """Examples as a projection makes them: of −127 to 127."""
    count = draw(st.integers(least, 12))
    rows = st.lists(st.integers(-127, 127), min_size=D, max_size=D)
    x = np.array(draw(st.lists(rows, min_size=count, max_size=count)), np.int8).reshape(count, D)
    return x, np.array(draw(st.lists(st.integers(0, CLASSES - 1), min_size=count, max_size=count)), int)
