"""Rehearsal: an update on stored examples alone."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ffruntime.cli import cli
from ffruntime.core.bundle import CALIBRATION
from ffruntime.learning.learner import Learner
from ffruntime.learning.step import Settings
from ffruntime.learning.store import BUNDLES, LEARNED
from ffruntime.model import Model
from ffruntime.session import Session

FAST = Settings(steps=2, head_steps=2, batch=8)


@pytest.fixture(scope="module")
def model(exported: Path) -> Model:
    return Model(exported, session=Session(threads=1), state=False)


def test_rehearsal_makes_a_version_and_takes_no_example(model: Model, tmp_path: Path) -> None:
    images = model.bundle.exemplars(CALIBRATION).pixels
    taken: list[None] = []
    with closing(Learner(model, tmp_path / "model.state", FAST, tolerance=1.0)) as learner:
        learner.learn(images[:4], ["dots"] * 4)
        before, stored = learner.store.current().weights.tensors, learner.store.ids(BUNDLES, LEARNED)
        pending = learner.store.add(images[4:6], ["dots"] * 2)
        outcome = learner.rehearse(3, lambda: taken.append(None))
        assert outcome
        assert (outcome.version, outcome.adopted, outcome.examples, outcome.evicted) == (2, True, (), 0)
        assert len(taken) == 6  # of the units, and of the classifier
        assert learner.version == 2
        assert [(version.kind, version.examples) for version in learner.store.history()] == [
            ("update", 4),
            ("rehearsal", 0),
        ]
        assert learner.store.ids(BUNDLES, LEARNED) == stored
        assert learner.store.pending() == pending
        after = learner.store.current().weights.tensors
        assert any(not np.array_equal(after[name], before[name]) for name in before)
        assert learner.store.current().examples == 4


def test_rehearsal_is_judged(model: Model, tmp_path: Path) -> None:
    with closing(Learner(model, tmp_path / "model.state", FAST, tolerance=-2.0)) as learner:
        outcome = learner.rehearse(1)
        assert outcome
        assert not outcome.adopted
        assert learner.version == 0
        assert [(version.kind, version.adopted) for version in learner.store.history()] == [("rehearsal", False)]


def test_without_examples_there_is_nothing_to_rehearse(model: Model, tmp_path: Path) -> None:
    with closing(Learner(model, tmp_path / "model.state", FAST, seeded=False)) as learner:
        assert learner.rehearse(1) is None
        assert learner.store.history() == []


def test_the_command_rehearses_after_what_is_pending(exported: Path, tmp_path: Path) -> None:
    words = (
        "learn",
        "--model",
        exported,
        "--state",
        tmp_path / "s",
        "--steps",
        1,
        "--tolerance",
        1,
        "--rehearse",
        1,
    )
    done = CliRunner().invoke(cli, list(map(str, words)))
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("version 1 adopted: rehearsal, held-back images")
