"""Class goodness learns on the device: layer-local steps, and a class never seen that takes a spare row."""

from __future__ import annotations

from contextlib import closing, nullcontext
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs
from pictures import NEW, draw
from shapes import FIRST, PATTERNS, drawn

from ffruntime.core.architecture import EPS_DIVISIVE, cell_edges, readout_cells, unit_name
from ffruntime.core.bundle import CALIBRATION, REPLAY
from ffruntime.core.data import Examples, to_unit_interval
from ffruntime.core.errors import BundleError, UsageError
from ffruntime.core.layers import KNOWN, unit_parameters
from ffruntime.core.state import read_state, write_state
from ffruntime.embedding import class_input
from ffruntime.learning.learner import Learner
from ffruntime.learning.rows import begin_rows, mean_features
from ffruntime.learning.step import Arrays, ClassSteps, Settings
from ffruntime.learning.stream import Stream
from ffruntime.model import Model
from ffruntime.session import Session

FAST = Settings(steps=2, batch=8)
CLASSES = 6
ROW = CLASSES  # of the first class that is learned


@pytest.fixture(scope="module")
def model(class_bundle: Path) -> Model:
    return Model(class_bundle, session=Session(threads=1), state=False)


@pytest.fixture
def weights(model: Model) -> Arrays:
    """The bundle's, to be changed."""
    return {name: tensor.copy() for name, tensor in model.bundle.weights().items()}


def squares(count: int, seed: int = 60_000) -> np.ndarray:
    """Pictures of a class that the network was not trained on."""
    return np.stack([draw(NEW, seed + index)[None] for index in range(count)])


def examples(model: Model, count: int) -> tuple[np.ndarray, np.ndarray]:
    images, labels = structs.astuple(model.bundle.exemplars(CALIBRATION).take(slice(count)))
    return to_unit_interval(images), labels


@pytest.mark.parametrize("micro_batch", [1, 5])
def test_micro_batches_change_nothing(micro_batch: int, model: Model, weights: Arrays) -> None:
    """With SGD, where an error of a gradient is not blown up by the division by its own size."""
    images, labels = examples(model, 12)
    settings = Settings(optimizer="sgd", lr=1e-2, micro_batch=12)
    expected = {name: array.copy() for name, array in weights.items()}
    losses = []
    for changed, size in ((expected, 12), (weights, micro_batch)):
        steps = ClassSteps(model, changed, structs.replace(settings, micro_batch=size))
        for _ in range(3):
            steps.step(images, labels)
        losses.append(steps.losses)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    for name, array in weights.items():
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-5, err_msg=name)


def test_steps_make_each_unit_surer_and_change_nothing_else(model: Model, weights: Arrays) -> None:
    """On pictures that are inverted: every unit's loss falls; rows that are not known stay as they are."""
    images, labels = examples(model, 24)
    before = {name: array.copy() for name, array in weights.items()}
    steps = ClassSteps(model, weights, Settings(lr=3e-3))
    losses = []
    for _ in range(15):
        steps.step(1 - images, labels)
        losses.append(steps.losses)
    assert all(last < first for first, last in zip(losses[0], losses[-1], strict=True))
    learned = {t.name for index in range(3) for t in unit_parameters(model.manifest.network, index)}
    for name, array in weights.items():
        assert np.array_equal(array, before[name]) == (name not in learned), name
        if "readout" in name:
            np.testing.assert_array_equal(array[CLASSES:], before[name][CLASSES:])


def test_half_the_rate_is_half_the_learning_rate(model: Model, weights: Arrays) -> None:
    images, labels = examples(model, 8)
    other = {name: array.copy() for name, array in weights.items()}
    ClassSteps(model, weights, Settings(lr=1e-3)).step(images, labels, 0.5)
    ClassSteps(model, other, Settings(lr=5e-4)).step(images, labels)
    for name, array in weights.items():
        np.testing.assert_array_equal(array, other[name])


def test_mean_features_are_those_of_the_activations(model: Model, weights: Arrays) -> None:
    """Read from a gradient: as averaged over the cells of what the unit graphs put out. Nothing is changed."""
    network, images = model.manifest.network, squares(5)
    found = mean_features(model, weights, Examples(images, np.full(5, ROW)), micro_batch=2)
    x = class_input(network, weights, to_unit_interval(images))
    for index, unit in enumerate(network.units):
        outputs = model.graph(unit_name(index))({"input": x})
        x, y = outputs["output"], outputs["activation"]
        assert unit.readout
        for axis, cells in enumerate(readout_cells(unit.readout, y.shape[1:])[1:], 2):
            edges = cell_edges(y.shape[axis], cells)
            y = np.add.reduceat(y, edges[:-1], axis=axis) / np.diff(edges).reshape(-1, *[1] * (3 - axis))
        flat = y.reshape(5, -1)
        z = flat / np.sqrt((flat**2).mean(1, keepdims=True) + EPS_DIVISIVE)
        np.testing.assert_allclose(found[index], z.mean(0), rtol=1e-3, atol=1e-4)
    for name, array in model.bundle.weights().items():
        np.testing.assert_array_equal(weights[name], array)


def test_a_row_begins_where_the_class_is(model: Model, weights: Arrays) -> None:
    """Before any step it tells the new class from the others, mostly; other rows stay as they are."""
    old = model.bundle.exemplars(REPLAY)
    classes = [old.take(old.labels == label) for label in range(CLASSES)]
    before = {name: array.copy() for name, array in weights.items()}
    begin_rows(model, weights, classes, micro_batch=8)  # all are known
    for name, array in weights.items():
        np.testing.assert_array_equal(array, before[name])
    classes.append(Examples(squares(10), np.full(10, ROW)))
    begin_rows(model, weights, classes, micro_batch=8)
    assert weights[KNOWN].tolist() == [1.0] * (CLASSES + 1) + [0.0] * (PATTERNS - CLASSES - 1)
    for name, array in weights.items():
        if "readout" in name:
            others = np.delete(np.arange(PATTERNS), ROW)
            np.testing.assert_array_equal(array[others], before[name][others])
    means = [mean_features(model, weights, some, 8)[1] for some in classes]
    at = means @ weights["unit2.readout.weight"].T + weights["unit2.readout.bias"]  # goodness (class, row)
    elsewhere = [(np.sum(means, 0) - own) / CLASSES for own in means]
    there = elsewhere @ weights["unit2.readout.weight"].T + weights["unit2.readout.bias"]
    for goodness in (at, there):  # of a class at its own mean feature, and at that of the others
        own = np.diag(goodness)
        assert own[ROW] == pytest.approx(own[:ROW].mean(), rel=1e-3)
    imprinted = model.with_weights(structs.replace(model.weights, tensors=weights, classes=(*model.classes, NEW)))
    assert np.mean(imprinted.scores(squares(40, 70_000)).argmax(1) == ROW) > 0.6


@pytest.mark.slow
def test_a_new_class_is_learned_and_the_others_are_not_forgotten(model: Model, tmp_path: Path) -> None:
    images, labels = drawn(120)
    new = squares(40, 70_000)
    with closing(Learner(model, tmp_path / "s.state")) as learner:
        (outcome,) = learner.updates([(squares(20), [NEW] * 20)])
        assert outcome.adopted
        assert len(outcome.losses) == 3  # of the units alone
        assert outcome.examples == tuple(range(FIRST, FIRST + 20))
        assert np.mean(learner.model.scores(new).argmax(1) == ROW) > 0.9
        assert np.mean(learner.model.scores(images).argmax(1) == labels) > 0.95
    opened = Model(model.path, session=model.session, state=tmp_path / "s.state")
    assert opened.classify(new[0]).label == NEW
    assert opened.classify(images[0]).label == model.classes[labels[0]]


def test_every_step_is_announced(model: Model) -> None:
    taken: list[None] = []
    announced: list[tuple[str, int]] = []
    with closing(Learner(model, False, FAST)) as learner:
        learner.learn(drawn(3)[0], ["dots"] * 3, stepped=lambda: taken.append(None))
        assert len(taken) == FAST.steps

        def progress(kind: str, count: int):  # type: ignore[no-untyped-def]
            announced.append((kind, count))
            return nullcontext(lambda: None)

        list(learner.updates([(drawn(3)[0], ["dots"] * 3)], 7, progress=progress))
        assert announced == [("update", 2), ("update", 2), ("rehearsal", 7)]


def test_after_going_back_a_class_begins_again(model: Model, tmp_path: Path) -> None:
    """A rollback forgets the row, not the class: until it is learned again it stands with the least."""
    with closing(Learner(model, tmp_path / "s.state", FAST, tolerance=1.0)) as learner:
        learner.learn(squares(4), [NEW] * 4)
        first = learner.model.weights.tensors
        assert first[KNOWN][ROW] == 1
        learner.store.rollback(0)
        learner.refresh()
        assert learner.model.classes[ROW] == NEW
        scores = learner.model.scores(squares(2, 70_000))
        np.testing.assert_array_equal(scores[:, ROW], scores[:, :ROW].min(1))
        learner.learn(drawn(1)[0], ["dots"])  # the squares are replayed
        assert learner.model.weights.tensors[KNOWN][ROW] == 1
        learner.rehearse(2)
        assert learner.model.weights.tensors[KNOWN][ROW] == 1


def test_what_was_learned_goes_to_another_device(model: Model, tmp_path: Path) -> None:
    images = squares(3, 70_000)
    with closing(Learner(model, tmp_path / "one", FAST, tolerance=1.0)) as learner:
        learner.learn(squares(4), [NEW] * 4)
        weights, expected = learner.model.weights, learner.model.scores(images)
    file = tmp_path / "learned.state"
    write_state(file, model.manifest, weights, 1, 4)
    np.testing.assert_array_equal(read_state(file, model.manifest)[0].tensors[KNOWN], weights.tensors[KNOWN])
    with closing(Learner(model, tmp_path / "two", FAST, tolerance=1.0)) as other:
        assert other.apply(file).adopted
        np.testing.assert_array_equal(other.model.scores(images), expected)
        with pytest.raises(UsageError, match="would be class number 9"):
            other.learn(squares(2), ["eighth", "ninth"])


@pytest.mark.parametrize(
    ("row", "value", "message"),
    [(0, 0.0, "a class of the bundle has no row"), (7, 1.0, "a row is known that"), (6, 0.5, "neither 0 nor 1")],
)
def test_states_whose_rows_are_not_classes_are_refused(
    row: int, value: float, message: str, model: Model, tmp_path: Path
) -> None:
    known = model.bundle.weights()[KNOWN]
    known[row] = value
    weights = structs.replace(model.weights, tensors={KNOWN: known}, classes=(*model.classes, NEW))
    with pytest.raises(BundleError, match=message):
        write_state(tmp_path / "learned.state", model.manifest, weights, 1, 1)


def test_a_stream_learns_class_after_class(model: Model) -> None:
    """In memory, a portion at a time; a class that comes has its row from then on."""
    with closing(Learner(model, False, Settings(batch=16, micro_batch=16, lr=2e-3), tolerance=1.0)) as learner:
        stream = Stream(learner, np.random.default_rng(0))
        for start in range(0, 24, 8):
            stream.learn(squares(24)[start : start + 8], [NEW] * 8)
        stream.rehearse(5)
        outcome = stream.adopt()
        assert (stream.steps, outcome.adopted, len(outcome.losses)) == (8, True, 3)
        assert np.mean(learner.model.scores(squares(40, 70_000)).argmax(1) == ROW) > 0.8
