"""Devices that share what they learned: each is shown something, and all know it; nothing counts twice."""

from __future__ import annotations

import json
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import in_process_text
from counting import NEW, halves, same, shown, with_statistics
from shapes import drawn

from ffruntime.core.bundle import HELD_BACK
from ffruntime.core.errors import UsageError
from ffruntime.core.layers import KNOWN
from ffruntime.core.state import read_state
from ffruntime.learning.directory import export
from ffruntime.learning.learner import Learner
from ffruntime.learning.step import Settings
from ffruntime.learning.update import share_right
from ffruntime.model import Model
from ffruntime.session import Session

command = partial(in_process_text, "ffruntime")
FEW = Settings(steps=2, batch=4)


@pytest.fixture(scope="module")
def counting(class_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_statistics(class_bundle, tmp_path_factory.mktemp("fleet") / "model.ff")


@pytest.fixture
def model(counting: Path) -> Model:
    return Model(counting, session=Session(threads=1), state=False)


def device(model: Model, place: Path) -> Learner:
    return Learner(model, place, FEW, tolerance=1.0)


def teach(model: Model, place: Path, images: np.ndarray, names: list[str]) -> Path:
    """A device is shown images; the file of what it was shown itself."""
    file = place.with_suffix(".state")
    with closing(device(model, place)) as learner:
        learner.learn(images, names)
        export(learner.store, model.bundle, file, own=True)
    return file


def merge(model: Model, out: Path, *files: Path) -> dict:
    done = command("merge-states", *files, "--out", out, "--model", model.path, "--json", "--force")
    assert done.returncode == 0, done.stderr
    found: dict = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_what_each_was_shown_all_know(model: Model, tmp_path: Path) -> None:
    """Round after round, to the bit as one device that was shown everything; new classes by their names here."""
    images, _ = drawn(6)
    a, b, everyone = tmp_path / "a", tmp_path / "b", tmp_path / "all.state"
    mine = teach(model, a, halves(3), [NEW] * 3)
    theirs = teach(model, b, np.concatenate([halves(2, 1), images]), [NEW, *["star"] * 7])
    merged = merge(model, everyone, mine, theirs)
    assert merged["classes"][6:] == [NEW, "star"]
    assert len(merged["origins"]) == len(merged["members"]) == 2
    x = np.concatenate([halves(3), halves(2, 1), images])
    expected = shown(model, x, [6] * 4 + [7] * 7)
    for place, own in ((a, mine), (b, theirs)):
        with closing(device(model, place)) as learner:
            assert learner.apply(everyone).own
            outcome = learner.apply(everyone, own=own)
            assert (outcome.own, outcome.after) == (
                False,
                share_right(learner.model, model.bundle.exemplars(HELD_BACK)),
            )
            assert same(learner.model.weights.statistics, expected)
    with closing(device(model, tmp_path / "c")) as learner:  # that is in no merge, and has another class there
        learner.add(halves(1, 9), ["star"])
        learner.apply(everyone)
        assert learner.model.classes[6:] == ("star", NEW)
        swapped = shown(model, np.concatenate([x, halves(1, 9)]), [7] * 4 + [6] * 8)
        assert same(learner.model.weights.statistics, swapped)
    later = teach(model, a, halves(1, 5), [NEW])
    assert read_state(later, model.manifest)[1].origins == read_state(mine, model.manifest)[1].origins
    merge(model, everyone, later, theirs)
    with closing(device(model, b)) as learner:
        learner.apply(everyone, own=theirs)
        both = np.concatenate([x, halves(1, 5)])
        assert same(learner.model.weights.statistics, shown(model, both, [6] * 4 + [7] * 7 + [6]))
        learner.store.rollback(0)
        learner.refresh()
        own = shown(model, np.concatenate([halves(2, 1), images]), [6] + [7] * 7)
        assert same(learner.model.weights.statistics, own)


@pytest.mark.slow
def test_a_newer_file_of_a_device_takes_the_place_of_an_older(model: Model, tmp_path: Path) -> None:
    """And one that lacks what counts here is refused; what came from other devices stays."""
    first = teach(model, tmp_path / "a", halves(2), [NEW] * 2).rename(tmp_path / "first.state")
    other = teach(model, tmp_path / "b", halves(3, 1), [NEW] * 3)
    second = teach(model, tmp_path / "a", halves(1, 2), [NEW])
    with closing(device(model, tmp_path / "c")) as learner:
        for file, count in ((first, 2), (other, 5), (second, 6), (second, 6)):
            learner.apply(file)
            assert learner.model.weights.statistics
            assert learner.model.weights.statistics.counts.sum() == count
    merge(model, tmp_path / "both.state", second, other)
    with closing(device(model, tmp_path / "d")) as learner:
        learner.apply(tmp_path / "both.state")
        with pytest.raises(UsageError, match="count here already"):
            learner.apply(first)
        assert learner.version == 1


@pytest.mark.slow
def test_a_class_that_stands_elsewhere_here_takes_its_rows_along(model: Model, tmp_path: Path) -> None:
    with closing(device(model, tmp_path / "a")) as learner:
        learner.learn(halves(3), [NEW] * 3, now=True)
        export(learner.store, model.bundle, tmp_path / "a.state")
        theirs = learner.model.weights.tensors
    with closing(device(model, tmp_path / "b")) as learner:
        learner.add(drawn(1)[0], ["star"])
        learner.apply(tmp_path / "a.state")
        here = learner.model.weights.tensors
        assert here[KNOWN].tolist() == [1] * 6 + [0, 1]
        name = "unit2.readout.weight"
        np.testing.assert_array_equal(here[name][7], theirs[name][6])
        np.testing.assert_array_equal(here[name][6], model.bundle.weights()[name][6])


def test_the_command_says_what_is_left_out(model: Model, tmp_path: Path) -> None:
    mine = teach(model, tmp_path / "a", halves(3), [NEW] * 3)
    theirs = teach(model, tmp_path / "b", halves(2, 1), [NEW] * 2)
    options = ("--out", tmp_path / "all.state", "--model", model.path)
    done = command("merge-states", mine, theirs, *options)
    assert done.stdout == (
        f"{tmp_path / 'all.state'}: 2 states; 0 examples of updates; class statistics of 5 examples; "
        f"new classes: {NEW}\n"
    )
    assert command("merge-states", mine, theirs, *options).returncode == 2  # is there already
    twice = command("merge-states", mine, tmp_path / "all.state", *options, "--force")
    assert (twice.returncode, "would count twice" in twice.stderr) == (2, True)
    applied = command("apply-state", tmp_path / "all.state", "--model", model.path, "--state", tmp_path / "a")
    assert "examples of this very state are among them" in applied.stdout
    assert "--own FILE" in applied.stderr
    wrong = ("--own", tmp_path / "all.state", "--model", model.path, "--state", tmp_path / "a")
    assert command("apply-state", mine, *wrong).returncode == 2
