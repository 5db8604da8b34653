"""From examples to versions: what is learned, judged, refused, replayed and evicted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs
from shapes import BYTES, FIRST, SEEDS, SHAPE, drawn

from ffruntime.core.bundle import HELD_BACK, REPLAY
from ffruntime.core.errors import StateError
from ffruntime.core.manifest import Manifest
from ffruntime.core.state import State, Weights, read_state, write_state
from ffruntime.learning import learner as module
from ffruntime.learning import versions
from ffruntime.learning.directory import alone, current
from ffruntime.learning.learner import Learner
from ffruntime.learning.step import Settings
from ffruntime.learning.store import BUNDLES, LEARNED, PENDING, REFUSED
from ffruntime.learning.update import Outcome
from ffruntime.learning.versions import Current
from ffruntime.model import Model
from ffruntime.session import Session

FAST = Settings(steps=2, head_steps=2, batch=8)
REFUSES = -2.0  # tolerance
NONE = np.empty((0, *SHAPE), np.uint8)


@pytest.fixture(scope="module")
def model(exported: Path) -> Model:
    return Model(exported, session=Session(threads=1), state=False)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "model.state"


@pytest.fixture
def learner(model: Model, place: Path) -> Iterator[Learner]:
    with closing(Learner(model, place, FAST, tolerance=1.0)) as opened:
        yield opened


def sizes(learner: Learner) -> dict[str, int]:
    return {
        status: sum(map(len, learner.store.ids(status).values())) for status in (BUNDLES, PENDING, LEARNED, REFUSED)
    }


def learn(learner: Learner, count: int, label: str = "dots") -> list[Outcome]:
    return list(learner.updates([(drawn(count)[0] if count else NONE, [label] * count)]))


@pytest.mark.slow
def test_a_new_class_is_learned_and_the_others_are_not_forgotten(model: Model, place: Path) -> None:
    """Dark on white: never seen, and after twenty of them told from the others."""
    images, labels = drawn(120)
    dark = 255 - images
    stored: list[int] = []
    with closing(Learner(model, place, Settings(lr=3e-3, head_lr=2e-2))) as learner:
        (outcome,) = learner.updates([(dark[:20], ["dark"] * 20)], stored=stored.extend)
        assert stored == list(range(FIRST, FIRST + 20)) == list(outcome.examples)
        assert outcome.adopted
        for mode in ("goodness", "classifier"):
            scores = learner.model.scores(dark[20:], mode)
            assert np.mean(scores.argmax(1) == 6) > 0.95, mode
            old = model.scores(images, mode).argmax(1) == labels
            now = learner.model.scores(images, mode).argmax(1) == labels
            assert np.mean(now) > np.mean(old) - 0.05, mode
        assert outcome.after is not None
        held_back, right = structs.astuple(model.bundle.exemplars(HELD_BACK))
        mode = model.manifest.modes[0]
        assert outcome.after == np.mean(learner.model.scores(held_back, mode).argmax(1) == right)
    opened = Model(model.path, session=Session(threads=1), state=place)  # what classify sees
    assert opened.classes[6:] == ("dark",)
    assert opened.classify(dark[50]).label == "dark"


def test_one_update_after_another(learner: Learner, place: Path, model: Model) -> None:
    outcomes = learn(learner, 70)
    assert [outcome.version for outcome in outcomes] == [1, 2]
    assert [len(outcome.examples) for outcome in outcomes] == [64, 6]
    assert learner.version == 2
    assert learn(learner, 0) == []
    for name, tensor in current(place, model.manifest).weights.tensors.items():
        np.testing.assert_array_equal(tensor, learner.model.weights.tensors[name])


def test_every_step_is_announced(learner: Learner) -> None:
    taken: list[None] = []
    learner.learn(drawn(3)[0], ["dots"] * 3, stepped=lambda: taken.append(None))
    assert len(taken) == FAST.steps + FAST.head_steps


def test_the_same_state_and_examples_give_the_same_weights(model: Model, tmp_path: Path) -> None:
    weights = []
    for name in ("one", "two"):
        with closing(Learner(model, tmp_path / name, FAST, tolerance=1.0)) as learner:
            learn(learner, 5)
            weights.append(learner.model.weights.tensors)
    for name, tensor in weights[0].items():
        np.testing.assert_array_equal(tensor, weights[1][name])


def test_a_harmful_update_is_refused_and_can_be_tried_again(learner: Learner) -> None:
    learner.tolerance = REFUSES
    (outcome,) = learn(learner, 5)
    assert (outcome.adopted, outcome.version, learner.version) == (False, 1, 0)
    assert sizes(learner) == {BUNDLES: SEEDS, PENDING: 0, LEARNED: 0, REFUSED: 5}
    assert learn(learner, 0) == []
    learner.tolerance = 1.0
    assert learner.store.retry() == 5
    (outcome,) = learn(learner, 0)
    assert (outcome.adopted, outcome.version, learner.version) == (True, 2, 2)
    assert learner.store.history()[-1].parent == 0


def test_another_attempt_is_another_one(learner: Learner) -> None:
    """A retry, or another rehearsal, that repeated the refused one bit for bit would be refused again."""
    learner.tolerance = REFUSES
    (first,) = learn(learner, 5)
    learner.store.retry()
    (second,) = learn(learner, 0)
    assert first.examples == second.examples
    assert first.losses != second.losses
    rehearsals = [learner.rehearse(1), learner.rehearse(1)]
    assert len({rehearsal.losses for rehearsal in rehearsals if rehearsal}) == 2


def test_stored_images_keep_to_their_budget(model: Model, place: Path) -> None:
    with closing(Learner(model, place, FAST, tolerance=1.0, replay_bytes=60 * BYTES)) as learner:
        learn(learner, 40)
        assert (sizes(learner)[PENDING], sizes(learner)[REFUSED], sum(sizes(learner).values())) == (0, 0, 60)
        kept = {label: len(ids) for label, ids in learner.store.ids(BUNDLES, LEARNED).items()}
        assert kept == {**dict.fromkeys(range(6), 8), 3: 20}
        learner.tolerance = REFUSES
        learn(learner, 20)
        learn(learner, 20)
        assert sizes(learner)[REFUSED] == 20  # those of the last update can be tried again
        learner.tolerance = 1.0
        learn(learner, 1)
        assert sum(sizes(learner).values()) == 60
        assert sizes(learner)[REFUSED] == 0
    with closing(Learner(model, place, FAST, tolerance=1.0, replay_bytes=45 * BYTES)) as learner:
        learn(learner, 1)
        by_class = [len(ids) for ids in learner.store.ids(BUNDLES, LEARNED).values()]
        assert sum(by_class) == 45
        assert max(by_class) - min(by_class) <= 1


def test_without_the_bundles_examples(model: Model, place: Path) -> None:
    with closing(Learner(model, place, FAST, tolerance=1.0, seeded=False)) as learner:
        assert sum(sizes(learner).values()) == 0
        (outcome,) = learn(learner, 1)
        assert outcome.adopted


def test_what_was_applied_is_learned_on(learner: Learner, model: Model, tmp_path: Path) -> None:
    """Also in tensors that learning itself does not change."""
    weights = model.bundle.weights()
    neutral = {"labels.neutral": weights["labels.neutral"] + 1}
    write_state(tmp_path / "their.state", model.manifest, Weights(neutral, model.manifest.classes), 3, 30)
    assert learner.apply(tmp_path / "their.state", force=True).version == learner.version == 1
    learn(learner, 3)
    np.testing.assert_array_equal(learner.model.weights.tensors["labels.neutral"], neutral["labels.neutral"])
    now = learner.store.current()
    assert (now.updates, now.examples) == (4, 33)


def test_a_state_from_elsewhere_is_judged(learner: Learner, model: Model, place: Path, tmp_path: Path) -> None:
    """As an update is, by held-back examples; what is refused is in the history and changes nothing."""
    worse = {
        "head.bias": np.arange(8, dtype=np.float32) * 9,
        "labels.patterns": model.bundle.weights()["labels.patterns"][::-1],
    }
    classes = (*model.manifest.classes, "new")
    write_state(tmp_path / "worse.state", model.manifest, Weights(worse, classes), 3, 30)
    learner.tolerance = 0.05
    refused = learner.apply(tmp_path / "worse.state")
    assert not refused.adopted
    assert refused.after < refused.before - 0.05
    assert learner.store.current() == Current(0, Weights({}, model.manifest.classes), 0, 0)
    (row,) = learner.store.history()
    assert (row.kind, row.adopted, row.before, row.after) == ("applied", False, refused.before, refused.after)
    forced = learner.apply(tmp_path / "worse.state", force=True)
    assert (forced.adopted, forced.after, learner.version) == (True, refused.after, 2)
    write_state(tmp_path / "same.state", model.manifest, Weights({}, classes), 0, 0)
    as_shipped = learner.apply(tmp_path / "same.state")
    assert as_shipped.adopted
    assert as_shipped.before == as_shipped.after == refused.before
    with alone(place), pytest.raises(StateError, match="another process is learning"):
        learner.apply(tmp_path / "same.state")


def test_weights_are_read_once_and_those_made_here_not_at_all(
    learner: Learner, model: Model, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(path: Path, manifest: Manifest) -> tuple[Weights, State]:
        read.append(path.name)
        return read_state(path, manifest)

    monkeypatch.setattr(versions, "read_state", counted)
    for _ in range(2):
        learn(learner, 2)
    classify = learner.model.graph("classifier")
    assert learner.refresh().version == 2
    assert learner.model.graph("classifier") is classify
    assert read == []
    with closing(Learner(model, place, FAST, tolerance=1.0)) as other:
        assert read == ["2.state"]
        learn(other, 2)
    learner.refresh()
    learner.refresh()
    assert read == ["2.state", "3.state"]
    for name, tensor in other.model.weights.tensors.items():
        np.testing.assert_array_equal(tensor, learner.model.weights.tensors[name])
    learner.store.version_file(2).write_bytes(b"damaged")
    with pytest.raises(StateError, match="damaged"):
        learner.store.rollback(2)


def test_another_learners_versions_are_taken_over(learner: Learner, model: Model, place: Path) -> None:
    with closing(Learner(model, place, FAST, tolerance=1.0)) as other:
        learn(other, 2)
    assert learner.version == 0
    learn(learner, 2)
    assert [version.parent for version in learner.store.history()] == [0, 1]
    learner.store.rollback(0)
    learner.refresh()
    assert (learner.version, learner.model.weights.tensors) == (0, {})


def test_while_another_process_learns(learner: Learner, place: Path) -> None:
    with alone(place), pytest.raises(StateError, match="another process is learning"):
        learn(learner, 2)
    assert sizes(learner)[PENDING] == 2
    assert len(learn(learner, 1)[0].examples) == 3


def test_an_interrupted_update_leaves_its_examples_pending(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    images = learner.model.bundle.exemplars(REPLAY).pixels[:2]
    with pytest.raises(KeyboardInterrupt):
        learner.learn(images, ["dots", "ring"], stepped=interrupt)
    assert (sizes(learner)[PENDING], learner.store.history()) == (2, [])
    monkeypatch.setattr(module, "PORTION", 1)
    assert [outcome.version for outcome in learn(learner, 0)] == [1, 2]
