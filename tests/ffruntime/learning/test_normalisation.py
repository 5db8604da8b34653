"""Normalisation statistics anew from unlabelled images: a version like any other, and what becomes of the rest."""

from __future__ import annotations

import json
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import in_process_text
from counting import NEW, halves, with_statistics
from msgspec import structs
from PIL import Image
from shapes import BUNDLE, CLASS_BUNDLE, SEEDS, drawn

from ffruntime.core.data import to_unit_interval
from ffruntime.embedding import class_input
from ffruntime.learning.learner import Learner
from ffruntime.learning.normalisation import renormalised
from ffruntime.learning.versions import NORMALISED
from ffruntime.model import Model
from ffruntime.session import Session

MEAN, VARIANCE = "unit2.below.mean", "unit2.below.var"
command = partial(in_process_text, "ffruntime")


def faint(count: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Pictures as a bad camera shows them, uint8 (N, 1, H, W), and their labels."""
    images, labels = drawn(count, seed)
    noise = np.random.default_rng(seed).integers(0, 120, images.shape)
    return (images * 0.3 + noise).astype(np.uint8), labels


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return Model(with_statistics(CLASS_BUNDLE, tmp_path / "model.ff"), session=Session(threads=1), state=False)


def test_they_are_of_all_images_whatever_the_portions() -> None:
    """Of 70: what the unit receives then has mean 0 and variance 1 in every channel."""
    model, (images, _) = Model(CLASS_BUNDLE, session=Session(threads=1), state=False), faint(70)
    found = renormalised(model, images)
    assert found.keys() == {MEAN, VARIANCE}
    weights = model.weights
    now = model.with_weights(structs.replace(weights, tensors={**weights.tensors, **found}))
    x = class_input(model.manifest.network, model.bundle.weights(), to_unit_interval(images))
    before, after = (one.graph("unit1")({"input": x})["output"] for one in (model, now))
    assert np.abs(before.mean((0, 2, 3))).max() > 0.1
    np.testing.assert_allclose(after.mean((0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(after.var((0, 2, 3)), 1, atol=1e-2)


def test_a_world_that_has_changed_is_told_better_and_a_rollback_goes_back(model: Model, tmp_path: Path) -> None:
    """Class statistics begin anew, of what is stored, classes learned here among it, and come back."""
    (images, labels), state = faint(120), tmp_path / "state"
    with closing(Learner(model, state)) as learner:
        learner.learn(halves(6), [NEW] * 6)
        before = learner.model
        outcome = learner.renormalise(images[:60], force=True)
        now = learner.model
        assert outcome.adopted
        assert outcome.dropped == 120 - SEEDS
        assert (now.counts, now.weights.alone) == (True, True)
        assert [version.kind for version in learner.store.history()] == [NORMALISED]
        right = [(one.scores(images[60:]).argmax(1) == labels[60:]).mean() for one in (before, now)]
        assert right[1] > right[0] + 0.1
        assert (now.scores(halves(20, 1)).argmax(1) == 6).mean() > 0.8
        learner.learn(halves(3, 2), [NEW] * 3)
        assert learner.model.weights.statistics
        assert learner.model.weights.statistics.counts[6] == 9
        scores = learner.model.scores(images)
    np.testing.assert_array_equal(Model(model.path, session=Session(threads=1), state=state).scores(images), scores)
    done = command("rollback", "--model", model.path, "--state", state)
    assert done.returncode == 0, done.stderr
    back = Model(model.path, session=Session(threads=1), state=state)
    assert (back.counts, back.weights.alone) == (True, False)
    assert back.weights.statistics
    assert back.weights.statistics.counts[6] == 9


def test_mode_exit_is_normalised_like_the_others() -> None:
    model, (images, _) = Model(CLASS_BUNDLE, session=Session(threads=1), state=False), faint(30)
    now = model.with_weights(structs.replace(model.weights, tensors=renormalised(model, images)))
    whole, (early, passes) = now.scores(images), now.scores_and_passes(images, "exit")
    np.testing.assert_allclose(early[passes == 1], whole[passes == 1], atol=1e-4)
    assert (passes == 1).any()


@pytest.mark.slow
def test_the_command(model: Model, tmp_path: Path) -> None:
    """Judged like an update: what costs more than is tolerated needs --force. What cannot be read is named."""
    folder, state = tmp_path / "photos", tmp_path / "state"
    folder.mkdir()
    for number, image in enumerate(drawn(24)[0]):
        Image.fromarray(image[0]).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"none")
    options = ("--model", model.path, "--state", state, "--no-preprocess", "--json")
    done = command("renormalise", folder, *options)
    assert done.returncode == 4
    assert "broken.png" in done.stderr
    said = json.loads(done.stdout)
    assert (said["version"], said["adopted"], said["pictures"], said["dropped"]) == (1, True, 24, 72)
    strange = tmp_path / "strange.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)).save(strange)
    done = command("renormalise", strange, *options)
    assert (done.returncode, json.loads(done.stdout)["adopted"]) == (10, False)
    assert "--force takes it" in done.stderr
    done = command("renormalise", strange, "--force", *options[:-1])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("version 3 is current: normalisation statistics of 1 picture,")
    assert "class statistics anew" in done.stdout


def test_a_network_without_any_says_so(tmp_path: Path) -> None:
    picture = tmp_path / "one.png"
    Image.fromarray(drawn(1)[0][0, 0]).save(picture)
    done = command("renormalise", picture, "--model", BUNDLE, "--state", tmp_path / "state")
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs units that normalise by batch statistics" in done.stderr
    assert not (tmp_path / "state").exists()
