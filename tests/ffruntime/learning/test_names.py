"""Names of classes: one spelling each, asked about where they are nearly another, and spare patterns come back."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from counting import NEW, halves, with_statistics
from pictures import CLASSES
from shapes import PATTERNS, SHAPE

from ffruntime.cli import cli
from ffruntime.core.bundle import Bundle
from ffruntime.core.errors import UsageError, unknown
from ffruntime.learning.learner import Learner
from ffruntime.learning.names import near_miss
from ffruntime.learning.store import Store
from ffruntime.model import Model
from ffruntime.session import Session

IMAGES = np.zeros((4, *SHAPE), np.uint8)
SPARE = PATTERNS - len(CLASSES)


@pytest.fixture
def store(exported: Path, tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "model.state", Bundle(exported).manifest)) as opened:
        yield opened


def test_a_message_stays_short_whatever_the_names_are(store: Store) -> None:
    with pytest.raises(UsageError) as caught:
        store.add(IMAGES[:1], ["x" * 100_000])
    assert len(str(caught.value)) < 300
    many = [f"class {number}" for number in range(4000)]
    said = str(unknown("class", "class 399" + "9" * 10_000, many))
    assert len(said) < 3000
    assert said.endswith("class 1087 and 3,900 more")


def test_a_name_has_one_spelling(store: Store) -> None:
    composed = unicodedata.normalize("NFC", "café")
    store.add(IMAGES[:3], [unicodedata.normalize("NFD", "café"), " café\t", f"{CLASSES[0]} "])
    assert store.classes() == (*CLASSES, composed)
    assert store.read(store.pending()).labels.tolist() == [6, 6, 0]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("73", "must be a list with one for each image, not '73'"),
        (b"73", "must be a list"),
        (3, "must be a list with one for each image, not 3"),
        ([3, 4], "must be text, not 3"),
        (["dots", None], "must be text, not None"),
        (["dots"], "2 images with 1 names of classes"),
        (["dots", " "], "'' is no name for a class"),
    ],
)
def test_what_is_no_list_of_names(names: object, said: str, exported: Path) -> None:
    model = Model(exported, session=Session(threads=1), state=False)
    with closing(Learner(model, False)) as learner, pytest.raises(UsageError, match=said) as caught:
        learner.learn(IMAGES[:2], names)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("Cat", "cat"),
        ("catt", "cat"),
        ("c-at", "cat"),
        ("dogs", "dog"),
        ("car", None),
        ("3", None),
        ("class 12", None),
        ("Class 1", "class 1"),
        ("...", None),
    ],
)
def test_near_misses(name: str, near: str | None) -> None:
    assert near_miss(name, ["cat", "dog", "2", "class 1", "..,"]) == near


def test_a_class_without_examples_gives_its_pattern_back(store: Store) -> None:
    for round in range(3 * SPARE):  # more often than there are patterns
        (id,) = store.add(IMAGES[:1], [f"typo {round}"])
        store.forget([id])
        assert store.names.spare() == SPARE - 1  # its name is still known
        assert store.forget(label=6).freed
        assert store.classes() == CLASSES
        assert store.names.spare() == SPARE


def test_a_pattern_below_others_is_taken_by_the_next_class(store: Store) -> None:
    store.add(IMAGES[:2], ["typo", "tenth"])
    store.forget(label=6)
    assert store.classes() == (*CLASSES, "typo", "tenth")  # the labels of others do not move
    assert store.names.spare() == SPARE - 1
    store.add(IMAGES[:1], ["other"])
    assert store.classes() == (*CLASSES, "other", "tenth")
    store.forget(label=6)
    store.add(IMAGES[:1], ["other"])  # it comes back
    assert store.names.spare() == SPARE - 2
    store.forget(label=6)
    store.forget(label=7)
    assert store.classes() == CLASSES
    assert store.names.spare() == SPARE
    assert not store.forget(label=0).freed  # the bundle's


@pytest.mark.slow
def test_statistics_and_weights_of_a_class_that_is_gone(class_bundle: Path, tmp_path: Path) -> None:
    """Learned, evicted, forgotten: another class in its place begins with nothing of it."""
    bundle = with_statistics(class_bundle, tmp_path / "model.ff")
    model = Model(bundle, session=Session(threads=1), state=False)
    with closing(Learner(model, tmp_path / "model.state", replay_bytes=30 * 256)) as learner:
        learner.learn(halves(12), [NEW] * 12, now=True)
        learner.learn(halves(40, 1), [NEW] * 40)
        assert learner.forget(name=f" {NEW}").freed
        assert learner.model.classes == CLASSES
        shipped = [answer.label for answer in model.classify_batch(halves(4))]
        assert [answer.label for answer in learner.model.classify_batch(halves(4))] == shipped
        learner.learn(255 - halves(6), ["other"] * 6)
        assert learner.model.classes == (*CLASSES, "other")
        statistics = learner.model.weights.statistics
        assert statistics
        assert statistics.counts.tolist() == [0] * 6 + [6]


@pytest.fixture
def run(exported: Path, tmp_path: Path) -> Callable[..., Result]:
    def invoke(command: str, *arguments: object) -> Result:
        words = [command, "--model", exported, "--state", tmp_path / "model.state", *arguments]
        return CliRunner().invoke(cli, [str(word) for word in words])

    return invoke


QUICK = ("--steps", 1, "--tolerance", 1, "--threads", 1, "--yes")


def test_the_command_asks_about_a_near_miss(run: Callable[..., Result], picture_files: list[Path]) -> None:
    refused = run("learn", picture_files[0], "--label", "Rings", *QUICK)
    assert isinstance(refused.exception, UsageError)
    assert str(refused.exception) == (
        "'Rings' is no class yet, and nearly 'ring': say 'ring', or --new-class to mean another one"
    )
    meant = run("learn", picture_files[0], "--label", "Rings ", "--new-class", *QUICK)
    assert "new class Rings; room for 1 more (a mistyped one: ffruntime forget --label)\n" in meant.stderr
    assert "new class" not in run("learn", picture_files[0], "--label", "Rings", *QUICK).stderr
    events = [
        json.loads(line)
        for line in run("learn", picture_files[0], "--label", "x", "--json", *QUICK).stdout.splitlines()
    ]
    assert events[1] == {"event": "new_class", "label": "x", "spare": 0}
    assert "its pattern or row is free for another class" in run("forget", "--label", "Rings").stdout
    assert "room for 0 more" in run("learn", picture_files[0], "--label", "y", *QUICK).stderr
