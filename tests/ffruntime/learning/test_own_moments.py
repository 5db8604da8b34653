"""Class statistics in which every class has a second moment of its own, on the device."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import in_process_text
from counting import EACH, HOW, NEW, halves, same, shown, with_statistics
from msgspec import structs
from shapes import drawn

from ffruntime.core import statistics
from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.closed_form import solve, tell
from ffruntime.core.errors import BundleError
from ffruntime.core.manifest import STATISTICS, ClassStatistics
from ffruntime.core.state import read_state, write_state
from ffruntime.learning.learner import Learner
from ffruntime.learning.step import Settings
from ffruntime.learning.store import Store
from ffruntime.model import Model
from ffruntime.session import Session

command = partial(in_process_text, "ffruntime")
FEW = Settings(steps=2, batch=4)


@pytest.fixture(scope="module")
def counting(class_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_statistics(class_bundle, tmp_path_factory.mktemp("own") / "model.ff", EACH)


@pytest.fixture
def model(counting: Path) -> Model:
    return Model(counting, session=Session(threads=1), state=False)


def learner_of(model: Model, state: Path, **options: object) -> Learner:
    return Learner(model, state, FEW, **options)  # type: ignore[arg-type]


def test_what_counts_is_what_is_stored(model: Model, tmp_path: Path) -> None:
    """A new class from its first example, in the next answer; evicted examples go on to count, to the bit; and so
    it is when the state is opened again."""
    images, labels = drawn(60)
    names, room = [model.classes[label] for label in labels], len(model.bundle.exemplars(1)) + 10
    with closing(learner_of(model, tmp_path / "state", replay_bytes=room * 256)) as learner:
        now = learner.learn(halves(1), [NEW])
        assert (now.scores(halves(30, 1)).argmax(1) == 6).mean() > 0.9
        assert (now.scores(images).argmax(1) == labels).mean() > 0.9
        for some in (slice(1), slice(1, 30), slice(30, 60)):
            learner.learn(images[some], names[some])
        assert learner.counted
        assert 0 < learner.counted.snapshot().counts.sum() < 61
        expected = shown(model, np.concatenate([images, halves(1)]), [*labels.tolist(), 6])
        assert expected.kind == "each"
        assert same(learner.model.weights.statistics, expected)
        anew = solve(model.bundle.statistics(), expected, EACH.shrinkage)
        x = model.examples(images)
        np.testing.assert_array_equal(tell(learner.model.gaussians(), x).scores, tell(anew, x).scores[:, :7])
        typical = [answer.typicality for answer in learner.model.classify_batch(images)]
        assert typical == [None] * 60  # this bundle has no calibration
    with closing(Store(tmp_path / "state", model.manifest, writing=False)) as store:
        assert same(store.current().weights.statistics, expected)


def test_a_class_is_forgotten_exactly_although_its_examples_are_gone(model: Model, tmp_path: Path) -> None:
    images, labels = drawn(12)
    with closing(learner_of(model, tmp_path / "state", replay_bytes=0)) as learner:
        learner.learn(halves(20), [NEW] * 20)
        learner.learn(images, [model.classes[label] for label in labels])
        assert learner.store.pending() == []
        options = ("--label", NEW, "--model", model.path, "--state", tmp_path / "state")
        assert (
            "of 20 no longer stored, all that they counted for; its pattern" in command("forget", *options).stdout
        )
        learner.refresh()
        assert same(learner.model.weights.statistics, shown(model, images, labels.tolist()))
        assert learner.model.classes == model.classes


def test_an_example_is_forgotten_exactly(model: Model, tmp_path: Path) -> None:
    with closing(learner_of(model, tmp_path / "state")) as learner:
        first, *_ = learner.add(halves(3), [NEW] * 3)
        learner.forget([first])
        assert same(learner.model.weights.statistics, shown(model, halves(3)[1:], [6, 6]))


@pytest.mark.slow
def test_what_one_device_learned_another_takes(model: Model, tmp_path: Path) -> None:
    """As a state file; to the bit; not by a bundle whose classes share a moment."""
    file = tmp_path / "learned.state"
    with closing(learner_of(model, tmp_path / "one")) as learner:
        learner.learn(halves(3), [NEW] * 3)
        write_state(file, model.manifest, learner.store.current().weights, 0, 3, (learner.store.identity,))
    assert same(read_state(file, model.manifest)[0].statistics, shown(model, halves(3), [6] * 3))
    with closing(learner_of(model, tmp_path / "two")) as learner:
        assert learner.apply(file).adopted
        learner.learn(halves(2, 1), [NEW] * 2)
        both = np.concatenate([halves(3), halves(2, 1)])
        assert same(learner.model.weights.statistics, shown(model, both, [6] * 5))
    shared = structs.replace(model.manifest, statistics=structs.replace(EACH, moment="shared"))
    with pytest.raises(BundleError, match="made otherwise than the bundle's"):
        read_state(file, shared)


def test_a_bundle_says_which_moments_it_has(counting: Path, model: Model) -> None:
    assert model.bundle.statistics().kind == "each"
    other = structs.replace(model.manifest, statistics=structs.replace(EACH, root=False))
    bundle = Bundle(counting)
    bundle.manifest = other
    with pytest.raises(BundleError, match="projected otherwise"):
        bundle.statistics()


@pytest.mark.slow
def test_a_device_may_begin_with_nothing(class_bundle: Path, tmp_path: Path) -> None:
    """All classes are as likely until it is shown one; of a network that tells none, mode `exit` is `goodness`."""
    with_statistics(class_bundle, tmp_path / "model.ff", structs.replace(EACH, together=0))
    before = Model(tmp_path / "model.ff", state=False).bundle
    files = {name: entry for name, entry in before.manifest.files.items() if name != STATISTICS}
    write_bundle(before.path, structs.replace(before.manifest, files=files), {})
    model = Model(before.path, session=Session(threads=1), state=False)
    assert not model.bundle.statistics().counts.any()
    images, labels = drawn(60)
    assert model.mode("exit") == "goodness"
    with closing(learner_of(model, tmp_path / "state", seeded=False)) as learner:
        learner.learn(images, [model.classes[label] for label in labels])
        told = tell(learner.model.gaussians(), model.examples(images)).scores
        assert (told.argmax(1) == labels).mean() > 0.9
        assert same(learner.model.weights.statistics, statistics.added(shown(model, images, labels.tolist())))


@pytest.mark.parametrize("how", [HOW, EACH], ids=["shared", "each"])
def test_what_no_examples_have_is_an_error(how: ClassStatistics, class_bundle: Path, tmp_path: Path) -> None:
    """Moments that fit no sums: a line, and no traceback."""
    path = with_statistics(class_bundle, tmp_path / "model.ff", how)
    bundle = Bundle(path)
    found = bundle.statistics()
    wrong = structs.replace(found, moment=-found.moment)
    write_bundle(path, bundle.manifest, {STATISTICS: statistics.encode(wrong, how.origin(bundle.units_hash))})
    with pytest.raises(BundleError, match="no examples have its class statistics"):
        Model(path, session=Session(threads=1), state=False).gaussians()
