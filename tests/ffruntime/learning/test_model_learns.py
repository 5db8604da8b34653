"""`Model.learn`: three lines of Python, from several threads."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from ffruntime import Model
from ffruntime.bundle import read_tensors
from ffruntime.errors import UsageError


@pytest.fixture
def model(exported: Path, tmp_path: Path) -> Model:
    return Model(shutil.copytree(exported, tmp_path / "model.ff"))


def _exemplars(model: Model, count: int) -> tuple[np.ndarray, list[str]]:
    tensors = read_tensors(model.path, model.manifest, "exemplars.safetensors")
    return tensors["images"][:count], [model.manifest.classes[label] for label in tensors["labels"][:count]]


def test_a_model_goes_on_with_what_it_learned_and_so_does_the_next_one(model: Model) -> None:
    images, labels = _exemplars(model, 4)
    (outcome,) = model.learn(images, ["new"] * 4)
    again = Model(model.path)
    shipped = Model(model.path, state=False)
    if outcome.adopted:
        assert model.classes == (*shipped.classes, "new") == again.classes
        assert not np.array_equal(model.scores(images)[:, :10], shipped.scores(images))
    assert np.array_equal(model.scores(images), again.scores(images))
    assert (model.path.parent / "model.state" / "learning.db").exists()
    with pytest.raises(UsageError, match="as shipped"):
        shipped.learn(images, labels)


def test_other_threads_classify_while_one_learns(model: Model) -> None:
    images, _ = _exemplars(model, 8)
    done, failures = threading.Event(), []

    def classify() -> None:
        while not done.is_set():
            try:
                answers = model.classify_batch(images)
                assert all(len(answer.scores) in (10, 11) for answer in answers)
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=classify) for _ in range(3)]
    for thread in threads:
        thread.start()
    model.learn(images[:3], ["new"] * 3)
    model.learn(images[3:6], ["new"] * 3)
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
