"""A class that a network was never shown, learned on the device from twenty images, with the default settings."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import structs

from ffexport.export import export_onnx
from ffruntime import Model
from ffruntime.core.bundle import CALIBRATION, HELD_BACK
from ffruntime.core.data import data_directory
from ffruntime.learning.learner import Learner
from ffruntime.session import Session
from fftrain.dataset import Dataset, load_dataset
from fftrain.pack import pack_run
from fftrain.recipe import Recipe
from fftrain.run import start, train

pytestmark = pytest.mark.slow


def test_twenty_images_of_a_digit_never_seen_and_the_others_are_not_forgotten(
    dataset: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    """A network that was trained on 1 to 9, and zeros; real images that were not learned from.

    Whether an update of so small a network is adopted depends on its seed: adopted it is here, whatever it costs.
    What it costs is 2 to 4 % over four seeds, and 86 to 91 % of the zeros are told, where unit 2 sees 5 × 5 pixels.
    """
    known = load_dataset("mnist", data_directory(None), "1-9")
    few = type(known.train)(known.train.pixels[:3200], known.train.labels[:3200])
    path = tmp_path / "model.ff"
    run = start(tiny_recipe, structs.replace(known, train=few), 0, torch.device("cpu"), torch.float32)
    for _ in train(run, path, resume=False, stop=lambda: False):
        pass
    pack_run(path, run, "tiny", "cpu", "fp32", {})
    export_onnx(path)
    model, digits = Model(path), dataset.validation
    zeros = digits.pixels[digits.labels == 0].numpy()
    others, labels = digits.pixels[digits.labels > 0][:300].numpy(), digits.labels[digits.labels > 0][:300].numpy()
    before = model.scores(others, "shortlist").argmax(1) == labels - 1
    with closing(Learner(model, tolerance=1.0)) as learner:
        (outcome,) = learner.updates([(zeros[:20], ["0"] * 20)])
    model = learner.model
    assert outcome.adopted
    assert model.classes == (*"1234567890",)
    for opened in (model, Model(path)):
        answers = opened.classify_batch(zeros[20:100], "shortlist")
        assert np.mean([answer.label == "0" for answer in answers]) > 0.7
        after = opened.scores(others, "shortlist").argmax(1) == labels - 1
        assert before.mean() > 0.8
        assert after.mean() > before.mean() - 0.1


@pytest.fixture(scope="module")
def model(exported: Path) -> Model:
    return Model(exported, session=Session(threads=1), state=False)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "model.state"


def test_a_new_class_is_learned_and_the_others_are_not_forgotten(model: Model, place: Path) -> None:
    """Digits dark on white: never seen, and after twenty of them told from the others.

    All of them are, over four seeds (where unit 2 sees 5 × 5 pixels), and the others lose up to 7 %: more than
    every update is adopted with. That less than 5 % are lost is asked of a network that does not change
    (`ffruntime/learning/test_learner.py`).
    """
    images, labels = structs.astuple(model.bundle.exemplars(CALIBRATION))
    dark = 255 - images
    stored: list[int] = []
    with closing(Learner(model, place, tolerance=1.0)) as learner:
        (outcome,) = learner.updates([(dark[:20], ["dark"] * 20)], stored=stored.extend)
        assert stored == list(range(201, 221)) == list(outcome.examples)
        assert outcome.adopted
        for mode in ("goodness", "classifier"):
            scores = learner.model.scores(dark[20:], mode)
            assert np.mean(scores.argmax(1) == 10) > 0.95, mode
            old = model.scores(images, mode).argmax(1) == labels
            now = learner.model.scores(images, mode).argmax(1) == labels
            assert np.mean(now) > np.mean(old) - 0.15, mode
        assert outcome.after is not None
        held_back, right = structs.astuple(model.bundle.exemplars(HELD_BACK))
        mode = model.manifest.modes[0]
        assert outcome.after == np.mean(learner.model.scores(held_back, mode).argmax(1) == right)
    opened = Model(model.path, session=Session(threads=1), state=place)  # what classify sees
    assert opened.classes[10:] == ("dark",)
    assert opened.classify(dark[150]).label == "dark"
