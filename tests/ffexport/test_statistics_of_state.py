"""Class statistics in a bundle that is made of another one and what a device learned."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from counting import EACH, HOW, NEW, halves, same, shown, with_statistics
from shapes import CLASS_BUNDLE, drawn

from ffexport.from_state import _encoded, _statistics, export_state, left_out
from ffruntime.core import statistics
from ffruntime.core.bundle import Bundle
from ffruntime.core.layers import KNOWN
from ffruntime.core.manifest import ClassStatistics
from ffruntime.core.state import Weights, write_state
from ffruntime.golden import check, require
from ffruntime.learning.learner import Learner
from ffruntime.learning.step import Settings
from ffruntime.model import Model
from ffruntime.session import Session

FEW = Settings(steps=2, batch=4)


@pytest.mark.parametrize("how", [HOW, EACH], ids=["shared", "each"])
def test_they_are_the_bundles_and_the_devices(how: ClassStatistics, tmp_path: Path) -> None:
    """Of the classes that have rows; none where the units are others, or the bundle has none."""
    model = Model(
        with_statistics(CLASS_BUNDLE, tmp_path / "model.ff", how), session=Session(threads=1), state=False
    )
    images, labels = drawn(12)
    known, new = shown(model, images, labels.tolist()), shown(model, halves(3), [6] * 3)
    weights, both = model.bundle.weights(), statistics.added(known, new)
    whole = _statistics(model.bundle, weights, Weights({}, (*model.classes, NEW), statistics=both))
    assert same(whole, statistics.added(model.bundle.statistics(), both))
    assert whole
    (data,) = _encoded(model.bundle, whole, 7).values()
    found, origin = statistics.decode(data, "here")
    assert same(found, whole)
    assert origin == how.origin(model.bundle.units_hash)
    (data,) = _encoded(model.bundle, whole, 6).values()
    found = statistics.decode(data, "here")[0]
    expected = statistics.added(model.bundle.statistics(), known)
    np.testing.assert_array_equal(found.sums, expected.sums[:6])
    others = {**weights, "unit1.conv1.bias": weights["unit1.conv1.bias"] + 1}
    assert _statistics(model.bundle, others, Weights({}, model.classes)) is None
    assert _statistics(Model(CLASS_BUNDLE, state=False).bundle, weights, Weights({}, model.classes)) is None


def test_a_class_that_nothing_knows_is_named_as_left_out(tmp_path: Path) -> None:
    """Class statistics alone are enough; so is a row."""
    file = tmp_path / "learned.state"
    model = Model(with_statistics(CLASS_BUNDLE, tmp_path / "model.ff"), session=Session(threads=1), state=False)
    classes, told = (*model.classes, NEW), statistics.of(model.examples(halves(3)), np.full(3, 6), 7)
    write_state(file, model.manifest, Weights({}, classes), 0, 0)
    assert left_out(model.bundle, file) == (NEW,)
    write_state(file, model.manifest, Weights({}, classes, statistics=told), 0, 0)
    assert left_out(model.bundle, file) == ()
    known = model.bundle.weights()[KNOWN].copy()
    known[6] = 1
    write_state(file, model.manifest, Weights({KNOWN: known}, classes), 1, 3)
    assert left_out(model.bundle, file) == ()


@pytest.mark.slow
def test_a_bundle_knows_what_statistics_alone_know(tmp_path: Path) -> None:
    """It tells the class, goes on to learn it, and its graphs are proven."""
    source, file = with_statistics(CLASS_BUNDLE, tmp_path / "model.ff"), tmp_path / "learned.state"
    with closing(Learner(Model(source, state=False), tmp_path / "one")) as learner:
        learner.learn(halves(6), [NEW] * 6)
        now = learner.store.current()
        write_state(file, learner.model.manifest, now.weights, 0, 0)
    export_state(Bundle(source), file, tmp_path / "new.ff")
    model = Model(tmp_path / "new.ff", state=False)
    images, labels = drawn(60)
    assert model.manifest.classes[6] == NEW
    assert model.known.tolist() == list(range(6))
    assert (model.scores(halves(30, 1)).argmax(1) == 6).mean() > 0.9
    assert (model.scores(images).argmax(1) == labels).mean() > 0.9
    require(check(model), model.backend)
    with closing(Learner(model, tmp_path / "two", FEW, tolerance=1.0)) as learner:
        learner.learn(halves(4, 2), [NEW] * 4, now=True)
        assert learner.model.known.tolist() == list(range(7))
        learner.learn(images[:2], [model.classes[labels[0]], model.classes[labels[1]]], now=True)
        assert learner.version == 2
