"""Class statistics in a bundle that is made of another one and what a device learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from counting import HOW, NEW, halves, same, shown, with_statistics
from shapes import CLASS_BUNDLE, drawn

from ffexport.from_state import _statistics, left_out
from ffruntime.core import statistics
from ffruntime.core.layers import KNOWN
from ffruntime.core.state import Weights, write_state
from ffruntime.model import Model
from ffruntime.session import Session


def test_they_are_the_bundles_and_the_devices(tmp_path: Path) -> None:
    """Of the classes that have rows; none where the units are others, or the bundle has none."""
    model = Model(with_statistics(CLASS_BUNDLE, tmp_path / "model.ff"), session=Session(threads=1), state=False)
    images, labels = drawn(12)
    known, new = shown(model, images, labels.tolist()), shown(model, halves(3), [6] * 3)
    weights, both = model.bundle.weights(), statistics.added(known, new)
    (data,) = _statistics(model.bundle, weights, Weights({}, (*model.classes, NEW), statistics=both)).values()
    found, origin = statistics.decode(data, "here")
    assert same(found, statistics.added(model.bundle.statistics(), both))
    assert (origin.units, origin.dimension) == (model.bundle.units_hash, HOW.dimension)
    (data,) = _statistics(model.bundle, weights, Weights({}, model.classes, statistics=both)).values()
    found = statistics.decode(data, "here")[0]
    expected = statistics.added(model.bundle.statistics(), known)
    np.testing.assert_array_equal(found.sums, expected.sums[:6])
    others = {**weights, "unit1.conv1.bias": weights["unit1.conv1.bias"] + 1}
    assert _statistics(model.bundle, others, Weights({}, model.classes)) == {}
    assert _statistics(Model(CLASS_BUNDLE, state=False).bundle, weights, Weights({}, model.classes)) == {}


def test_a_class_without_a_row_is_named_as_left_out(tmp_path: Path) -> None:
    """It was told by class statistics, and the new bundle cannot."""
    file = tmp_path / "learned.state"
    model = Model(with_statistics(CLASS_BUNDLE, tmp_path / "model.ff"), session=Session(threads=1), state=False)
    classes, told = (*model.classes, NEW), statistics.of(model.examples(halves(3)), np.full(3, 6), 7)
    write_state(file, model.manifest, Weights({}, classes, statistics=told), 0, 0)
    assert left_out(model.bundle, file) == (NEW,)
    known = model.bundle.weights()[KNOWN].copy()
    known[6] = 1
    write_state(file, model.manifest, Weights({KNOWN: known}, classes, statistics=told), 1, 3)
    assert left_out(model.bundle, file) == ()
