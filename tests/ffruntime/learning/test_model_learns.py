"""A model that goes on with what is learned: three lines of Python, from several threads."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from ffruntime import Model
from ffruntime.core.errors import StorageError
from ffruntime.learning import learner as module
from ffruntime.learning.learner import Learner
from ffruntime.learning.step import Settings
from ffruntime.learning.update import Outcome

BRIEF = Settings(steps=10, head_steps=10)


@pytest.fixture
def model(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """Whatever it learns is adopted: that some digits are of a new class does harm."""
    monkeypatch.setattr(module, "share_right", lambda *_: None)
    return Model(shutil.copytree(exported, tmp_path / "model.ff"))


def _exemplars(model: Model, count: int) -> tuple[np.ndarray, list[str]]:
    examples = model.bundle.exemplars()
    return examples.pixels[:count], [model.manifest.classes[label] for label in examples.labels[:count]]


def test_a_model_goes_on_with_what_it_learned_and_so_does_the_next_one(model: Model) -> None:
    images, _ = _exemplars(model, 4)
    before = model
    model = Learner(before, settings=BRIEF).learn(images, ["new"] * 4)
    assert not (model.path.parent / "model.state" / "learning.db-wal").exists()  # it is closed with the learner
    again = Model(model.path)
    shipped = Model(model.path, state=False)
    np.testing.assert_array_equal(before.scores(images), shipped.scores(images))
    assert model.classes == (*shipped.classes, "new") == again.classes
    assert not np.array_equal(model.scores(images)[:, :6], shipped.scores(images))
    assert np.array_equal(model.scores(images), again.scores(images))
    assert (model.path.parent / "model.state" / "learning.db").exists()


def test_without_a_state_directory_nothing_is_written(model: Model) -> None:
    images, _ = _exemplars(model, 4)
    with closing(Learner(model, state=False, settings=BRIEF)) as learner:
        learned = learner.learn(images, ["new"] * 4)
        assert learned.classes == (*model.classes, "new")
        assert not np.array_equal(learned.scores(images)[:, :6], model.scores(images))
        assert learner.store.rollback() == 0
        assert learner.refresh().version == 0
        np.testing.assert_array_equal(learner.model.scores(images)[:, :6], model.scores(images))
    assert [path.name for path in model.path.parent.iterdir()] == ["model.ff"]


def test_what_was_adopted_counts_where_a_later_update_fails(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = _exemplars(model, 4)
    update, updates = Learner.update, []

    def fails_at_last(self: Learner, stepped: Callable[[], None]) -> Outcome | None:
        if updates:
            raise StorageError("no room")
        updates.append(update(self, stepped))
        return updates[0]

    monkeypatch.setattr(Learner, "update", fails_at_last)
    with closing(Learner(model, settings=BRIEF)) as learner, pytest.raises(StorageError):
        learner.learn(images, labels)
    assert updates[0].adopted
    np.testing.assert_array_equal(learner.model.scores(images), Model(model.path).scores(images))
    assert learner.model.weights.tensors


@pytest.mark.slow
def test_other_threads_classify_while_one_learns(model: Model) -> None:
    """Every score that they get is of one version: the one before, or the one after."""
    images, _ = _exemplars(model, 8)
    done, failures, seen = threading.Event(), [], []

    def classify() -> None:  # the model is whichever was made last
        while not done.is_set():
            try:
                seen.append(model.scores(images))
            except Exception as error:
                failures.append(error)
            time.sleep(0.02)  # or the threads starve the one that learns

    known = [model.scores(images)]

    threads = [threading.Thread(target=classify) for _ in range(3)]
    for thread in threads:
        thread.start()
    for some in (images[:3], images[3:6]):
        model = Learner(model, settings=BRIEF).learn(some, ["new"] * 3)
        known.append(model.scores(images))
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert not np.allclose(known[1], known[2], rtol=1e-3)
    which = [
        [k.shape == scores.shape and np.allclose(k, scores, rtol=1e-5, atol=1e-5) for k in known] for scores in seen
    ]
    assert {sum(matches) for matches in which} == {1}
    assert len(seen) > 3
