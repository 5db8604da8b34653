"""Class statistics on the device: an example counts in the next answer, durably, and can be taken back."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tracemalloc
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import in_process_text
from counting import HOW, NEW, halves, same, shown, with_statistics
from msgspec import structs
from PIL import Image
from shapes import drawn

from ffruntime.core import statistics
from ffruntime.core.bundle import write_bundle
from ffruntime.core.closed_form import solve, tell
from ffruntime.core.errors import BundleError, StateError, UsageError
from ffruntime.core.layers import KNOWN, feature_tensors
from ffruntime.core.manifest import STATISTICS
from ffruntime.core.state import Weights, read_state, write_state
from ffruntime.learning.counted import Told
from ffruntime.learning.learner import Learner
from ffruntime.learning.own_units import anew
from ffruntime.learning.step import Settings
from ffruntime.learning.store import Store
from ffruntime.learning.update import Judged
from ffruntime.learning.watch import watching
from ffruntime.model import Model
from ffruntime.session import Session

FEW = Settings(steps=2, batch=4)
command = partial(in_process_text, "ffruntime")


@pytest.fixture(scope="module")
def counting(class_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_statistics(class_bundle, tmp_path_factory.mktemp("counted") / "model.ff")


@pytest.fixture
def model(counting: Path) -> Model:
    return Model(counting, session=Session(threads=1), state=False)


def learner_of(model: Model, state: Path, **options: object) -> Learner:
    return Learner(model, state, FEW, **options)  # type: ignore[arg-type]


def test_statistics_answer_with_goodness_in_one_pass(model: Model) -> None:
    images, labels = drawn(60)
    outputs = model.graph("goodness")({"images": images / np.float32(255), "labels": np.arange(6)})
    told = tell(model.gaussians(), model.examples(images)).scores
    expected = outputs["total"] + HOW.weights["goodness"].beside * told
    np.testing.assert_allclose(model.scores(images), expected, rtol=1e-4, atol=1e-4)
    assert (told.argmax(1) == labels).mean() > 0.9
    np.testing.assert_array_equal(model.scores(images, "exit").argmax(1), labels)  # by goodness alone


def test_a_new_class_from_its_first_example(model: Model, tmp_path: Path) -> None:
    """No step is taken, no version made; the old classes are told as before."""
    images, labels = drawn(60)
    with closing(learner_of(model, tmp_path / "state")) as learner:
        now = learner.learn(halves(1), [NEW])
        assert now.classes == (*model.classes, NEW)
        assert learner.version == 0
        assert (now.scores(halves(30, 1)).argmax(1) == 6).mean() > 0.9
        assert (now.scores(images).argmax(1) == labels).mean() > 0.9
        assert KNOWN not in now.weights.tensors
        answer = now.classify(halves(1, 2)[0], "exit")  # no unit can be sure
        assert (answer.label, answer.mode, answer.passes) == (NEW, "goodness", 1)
    reopened = Model(model.path, session=Session(threads=1), state=tmp_path / "state")
    np.testing.assert_allclose(reopened.scores(images), now.scores(images), rtol=1e-5, atol=1e-5)


def test_what_was_just_answered_takes_no_second_pass(model: Model, tmp_path: Path) -> None:
    """Neither when it is taught, nor by the model after that."""
    with closing(learner_of(model, tmp_path / "state")) as learner:
        learner.model.classify(halves(1)[0])
        passes, graph = [], learner.model.graph("goodness")
        learner.model._graphs["goodness"] = lambda inputs: passes.append(1) or graph(inputs)
        learner.model.classify(halves(1)[0])
        learner.add(halves(1), [NEW])
        assert len(passes) == 1
        assert same(learner.model.weights.statistics, shown(model, halves(1), [6]))
        learner.add(halves(1, 1), [NEW])
        assert len(passes) == 2
        assert same(
            learner.model.weights.statistics, shown(model, np.concatenate([halves(1), halves(1, 1)]), [6, 6])
        )


def test_what_counts_is_what_is_stored(model: Model, tmp_path: Path) -> None:
    """However the examples came: one by one, many at once, by another process; and the factor that rank-one steps
    made is the one that is solved for."""
    images, labels = drawn(40)
    names = [model.classes[label] for label in labels]
    state = tmp_path / "state"
    with closing(learner_of(model, state)) as learner:
        for k in range(6):
            learner.learn(images[k : k + 1], names[k : k + 1])
        with closing(learner_of(model, state)) as other:
            other.learn(images[6:10], names[6:10])
        learner.learn(images[10:], names[10:])
        learner.learn(halves(2), [NEW] * 2)
        whole = np.concatenate([images, halves(2)])
        expected = shown(model, whole, [*labels.tolist(), 6, 6])
        assert same(learner.model.weights.statistics, expected)
        anew = solve(model.bundle.statistics(), expected, model.manifest.statistics.shrinkage)
        found, told = (tell(some, model.examples(images)).scores for some in (anew, learner.model.gaussians()))
        np.testing.assert_allclose(told, found[:, :7], rtol=1e-9, atol=1e-6)
    with closing(Store(state, model.manifest, writing=False)) as store:
        assert same(store.current().weights.statistics, expected)


def test_an_example_asks_the_database_for_nothing_that_it_knows(model: Model, tmp_path: Path) -> None:
    """Of a class that is known: one transaction, which writes a row and the number of the change."""
    with closing(learner_of(model, tmp_path / "state")) as learner:
        for k in range(2):
            learner.learn(halves(1, k), [NEW])
        said: list[str] = []
        learner.store._db._db.set_trace_callback(said.append)
        learner.learn(halves(1, 2), [NEW])
        assert learner.counted is not None
        assert int(learner.counted.statistics(0).counts.sum()) == 3
    words = [" ".join(line.split()[:2]) for line in said if not line.startswith("PRAGMA data_version")]
    assert words == ["BEGIN IMMEDIATE", "INSERT INTO", "INSERT OR", "COMMIT"]


def test_evicted_examples_go_on_to_count(model: Model, tmp_path: Path) -> None:
    """In the snapshot; with room for a few pictures alone."""
    images, labels = drawn(60)
    room = len(model.bundle.exemplars(1)) + 10
    with closing(learner_of(model, tmp_path / "state", replay_bytes=room * 256)) as learner:
        for k in range(0, 60, 20):
            learner.learn(images[k : k + 20], [model.classes[label] for label in labels[k : k + 20]])
        stored = learner.store.ids("pending", "learned", "bundle")
        assert sum(map(len, stored.values())) <= room
        assert same(learner.model.weights.statistics, shown(model, images, labels.tolist()))
        assert learner.counted
        assert 0 < learner.counted.snapshot().counts.sum() < 60


def test_gradients_teach_readouts_at_rest(model: Model, tmp_path: Path) -> None:
    """Units stay as they are, so that statistics go on to answer."""
    with closing(learner_of(model, tmp_path / "state", tolerance=1.0)) as learner:
        learner.learn(halves(4), [NEW] * 4)
        pending = tuple(learner.store.pending())
        (updated, rehearsed) = learner.updates([(np.empty(0), [])], 2)
        assert (updated.examples, rehearsed.examples) == (pending, ())
        changed = learner.model.weights.tensors
        readouts = {name for name in model.bundle.weights() if ".readout." in name}
        assert {name for name in changed if name.startswith("unit")} == readouts
        assert learner.model.counts
        assert changed[KNOWN][6] == 1
        assert (learner.model.scores(halves(30, 1)).argmax(1) == 6).mean() > 0.9
        learner.learn(halves(2, 2), [NEW] * 2, now=True)
        assert learner.version == 3


def test_every_fifth_example_judges(model: Model, tmp_path: Path) -> None:
    """No gradient learns from it, and statistics have it; an update that loses more than one is refused."""
    with closing(learner_of(model, tmp_path / "state", tolerance=1.0)) as learner:
        for count in (3, 4, 8):
            ids = learner.add(halves(count, count), [NEW] * count)
        judging = learner.store.ids("judging")[6]
        assert judging == [ids[0] - 7 + k for k in (4, 9, 14)]
        learner.learn(halves(1, 30), [model.classes[0]], now=True)
        assert set(learner.store.ids("learned")[6]).isdisjoint(judging)
        assert learner.store.pending() == []
        assert same(
            learner.model.weights.statistics,
            shown(model, np.concatenate([*(halves(n, n) for n in (3, 4, 8)), halves(1, 30)]), [6] * 15 + [0]),
        )
        learner.tolerance = 0.0
        (outcome,) = learner.updates([(halves(1, 31), [NEW])], now=True)
        assert outcome.judged
        assert (outcome.judged.images, outcome.adopted) == (3, outcome.judged.after >= outcome.judged.before - 1)


def test_what_loses_judging_examples_is_refused(model: Model, tmp_path: Path) -> None:
    """Although the bundle's held-back ones are told as before."""
    with closing(learner_of(model, tmp_path / "state")) as learner:
        ids = learner.add(halves(20), [NEW] * 20)
        weights = model.bundle.weights()
        harmful = {name: weights[name].copy() for name in weights if name.endswith((KNOWN, ".readout.bias"))}
        harmful[KNOWN][6] = 1  # a row that gives it less than any other
        for bias in harmful.keys() - {KNOWN}:
            harmful[bias][6] = -1e6
        outcome = learner.settle(learner.refresh(), "update", harmful, (), ids[:4], np.random.default_rng(0), 0.0)
        assert (outcome.before, outcome.adopted) == (outcome.after, False)
        assert outcome.judged
        assert (outcome.judged.images, outcome.judged.before, outcome.judged.after) == (4, 4, 0)


def test_room_is_made_for_some_at_a_time(model: Model, tmp_path: Path) -> None:
    """Where the store is full, not every example takes a transaction that evicts one."""
    with closing(learner_of(model, tmp_path / "state", replay_bytes=100 * 256, seeded=False)) as learner:
        learner.learn(halves(100), [NEW] * 100)
        counts = []
        for k in range(4):
            learner.learn(halves(1, k), [NEW])
            counts.append(learner.store.count())
        assert counts == [98, 99, 100, 98]


def test_judging_examples_take_a_fifth_of_the_room_at_most(model: Model, tmp_path: Path) -> None:
    with closing(learner_of(model, tmp_path / "state", replay_bytes=20 * 256, seeded=False)) as learner:
        learner.learn(halves(40), [NEW] * 40)
        stored = learner.store.ids("judging", "learned", "pending")[6]
        judging = learner.store.ids("judging")[6]
        assert (len(stored), len(judging)) == (20, 4)
        assert min(judging) > 20  # the newest ones
        assert same(learner.model.weights.statistics, shown(model, halves(40), [6] * 40))


def test_units_may_learn_where_that_is_asked_for(model: Model, tmp_path: Path) -> None:
    """Then statistics no longer answer; what is shown goes on to be counted, by the bundle's units."""
    with closing(learner_of(model, tmp_path / "state", tolerance=1.0, frozen=False)) as learner:
        learner.learn(halves(2), [NEW] * 2, now=True)
        assert learner.version == 1
        assert not learner.model.counts
        learner.learn(halves(2, 1), [NEW] * 2)
        expected = shown(model, np.concatenate([halves(2), halves(2, 1)]), [6] * 4)
        assert same(learner.model.weights.statistics, expected)


def test_units_that_are_taught_begin_statistics_of_their_own(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what is stored; adopted only where they are better. With the version they come and go."""
    state = tmp_path / "state"
    with closing(Learner(model, state, FEW, tolerance=1.0, units=True)) as learner:
        learner.add(halves(6), [NEW] * 6)
        (outcome,) = learner.updates([(np.empty(0), [])], now=True)
        assert outcome.judged  # nothing is better than all right
        assert (outcome.judged.before, outcome.adopted, learner.version) == (outcome.judged.images, False, 0)
        assert same(learner.model.weights.statistics, shown(model, halves(6), [6] * 6))
        monkeypatch.setattr(Judged, "better", True)
        learner.store.retry()
        (outcome,) = learner.updates([(np.empty(0), [])], now=True)
        taught = learner.model
        assert (outcome.adopted, taught.weights.alone, taught.counts) == (True, True, True)
        assert learner.store.history()[-1].kind == "units"
        seeds = model.bundle.exemplars(1)
        training = int(model.bundle.statistics().counts.sum())
        assert outcome.dropped == training + 6 - (len(seeds) + 6)
        learner.learn(halves(2, 1), [NEW] * 2, now=False)  # by the units that were taught
        pixels = np.concatenate([seeds.pixels, halves(6), halves(2, 1)])
        anew = shown(taught, pixels, [*seeds.labels.tolist(), *[6] * 8])
        assert same(learner.model.weights.statistics, anew)
        assert not np.array_equal(taught.examples(halves(6)), model.examples(halves(6)))
        now = learner.model.scores(halves(9, 3))
        assert learner.model.classify(halves(1, 3)[0]).typicality is None  # calibrated by other units
    np.testing.assert_allclose(Model(model.path, state=state).scores(halves(9, 3)), now, rtol=1e-4, atol=1e-4)
    version, done = (
        outcome.version,
        command("export-state", tmp_path / "f", "--model", model.path, "--state", state),
    )
    assert done.stderr == "warning: class statistics of units that were taught here are left out\n"
    assert read_state(tmp_path / "f", model.manifest)[0].statistics is None
    done = command("rollback", "--model", model.path, "--state", state)
    assert done.returncode == 0
    own = shown(model, np.concatenate([halves(6), halves(2, 1)]), [6] * 8)
    with closing(Store(state, model.manifest, writing=False)) as store:
        assert same(store.current().weights.statistics, own)
    with closing(learner_of(model, state, tolerance=1.0)) as learner:
        learner.store.rollback(version)
        learner.refresh()
        assert same(learner.model.weights.statistics, anew)
        learner.learn(halves(1, 4), [NEW], now=True)  # readouts alone
        assert learner.store.history()[-1].kind == "update"
        assert learner.model.weights.alone
        ids = [id for some in learner.store.ids("pending", "learned", "judging").values() for id in some]
        learner.forget([ids[0]])
        assert not learner.model.weights.alone


def test_statistics_belong_to_the_bundles_units(model: Model) -> None:
    """Where a version has other ones, goodness answers alone."""
    name = feature_tensors(model.manifest.network)[-1]
    other = model.with_weights(Weights({name: model.bundle.weights()[name] + 1}, model.classes))
    assert model.counts
    assert not other.counts
    assert other.scores(halves(2)).shape == (2, 6)


def test_a_watching_model_hears_of_an_example(model: Model, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with closing(learner_of(model, state)) as learner:
        newest = watching(model, state, pytest.fail)
        newest()
        ids = learner.add(halves(1), [NEW])
        assert same(newest().weights.statistics, shown(model, halves(1), [6]))
        learner.forget(ids)
        assert same(newest().weights.statistics, statistics.none(0, HOW.dimension))


def test_examples_from_before_are_counted(model: Model, class_bundle: Path, tmp_path: Path) -> None:
    """A state that was begun on the same weights without statistics."""
    plain = Model(class_bundle, session=Session(threads=1), state=False)
    with closing(learner_of(plain, tmp_path / "state")) as learner:
        learner.store.add(halves(3), [NEW] * 3)
    with closing(learner_of(model, tmp_path / "state")) as learner:
        assert same(learner.model.weights.statistics, shown(model, halves(3), [6] * 3))


def test_images_are_read_in_portions(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are stored: where features are missing, and where other units begin statistics."""
    images, labels = drawn(150)
    names, read = [model.classes[label] for label in labels], list[int]()
    with closing(Store(tmp_path / "state", model.manifest)) as store:
        store.add(images, names)
        whole = Store.read
        monkeypatch.setattr(Store, "read", lambda self, ids: read.append(len(ids)) or whole(self, ids))
        with closing(learner_of(model, tmp_path / "state")) as learner:
            assert same(learner.model.weights.statistics, shown(model, images, labels.tolist()))
        begun = anew(store, model)
        first = whole(store, begun.ids[:3])
    assert read == [64, 64, 22] * 2
    assert same(begun.statistics, shown(model, images, labels.tolist()))
    np.testing.assert_array_equal(begun.examples[:3], model.examples(first.pixels))


def test_states_from_elsewhere_are_read_one_after_the_other(model: Model, tmp_path: Path) -> None:
    """What is in memory while statistics are read does not grow with how many there are, and there may be."""
    images, labels = drawn(100)
    one, peaks = shown(model, images, labels.tolist()), []
    with closing(Store(tmp_path / "state", model.manifest)) as store:
        for files in (range(4), range(4, 80)):
            with store._db.transaction() as db:
                for file in files:
                    store.counted.take(db, Told(f"{file:064x}", one, ()), 0)
            tracemalloc.start()
            found = store.counted.statistics(0)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            assert int(found.counts.sum()) == 100 * (files[-1] + 1)
    assert peaks[1] < peaks[0] + 50_000


def test_damaged_features_are_refused(model: Model, tmp_path: Path) -> None:
    with closing(learner_of(model, tmp_path / "state")) as learner:
        learner.add(halves(1), [NEW])
    with closing(sqlite3.connect(tmp_path / "state" / "learning.db")) as db, db:
        db.execute("UPDATE examples SET features = x'00' WHERE features IS NOT NULL")
    with pytest.raises(StateError, match="not those of the bundle's class statistics"):
        learner_of(model, tmp_path / "state")


def test_a_bundle_with_statistics_of_other_units_is_refused(model: Model, tmp_path: Path) -> None:
    path = shutil.copytree(model.path, tmp_path / "model.ff")
    origin = HOW.origin("0" * 64)
    write_bundle(path, model.manifest, {STATISTICS: statistics.encode(model.bundle.statistics(), origin)})
    with pytest.raises(BundleError, match="made by other units"):
        Model(path, state=False).scores(halves(1))


# --- forgetting


def test_forgetting_is_exact(model: Model, tmp_path: Path) -> None:
    """Statistics are those without the example, its row is gone, and the weights are from before it."""
    with closing(learner_of(model, tmp_path / "state", tolerance=1.0)) as learner:
        learner.learn(halves(3), [NEW] * 3, now=True)
        learner.learn(halves(3, 1), [NEW] * 3, now=True)
        learner.learn(halves(1, 2), [NEW])
        assert learner.version == 2
        (last,) = learner.store.pending()
        found = learner.forget([last])
        assert (found.examples, found.first, learner.version) == ((last,), None, 2)
        found = learner.forget([last - 1])  # the last one of the second update
        assert (found.examples, found.first, learner.version) == ((last - 1,), 2, 1)
        kept = np.concatenate([halves(3), halves(3, 1)[:2]])
        assert same(learner.model.weights.statistics, shown(model, kept, [6] * 5))
        with pytest.raises(UsageError, match="its weights are not kept"):
            learner.store.rollback(2)
        learner.forget([last - 6])
        assert learner.version == 0
        assert learner.store.ids("learned") == {6: [last - 5, last - 4, last - 3]}


def test_what_was_rolled_back_stays_so(model: Model, tmp_path: Path) -> None:
    """What counts after forgetting is what the weights were made from, not the newest number."""
    with closing(learner_of(model, tmp_path / "state", tolerance=1.0)) as learner:
        learner.learn(halves(1), [NEW], now=True)
        learner.store.rollback(0)
        learner.learn(halves(1, 1), [NEW], now=True)
        assert learner.version == 2
        learner.forget([learner.store.ids("learned")[6][-1]])
        assert learner.version == 0


def test_a_class_is_forgotten_in_weights_from_elsewhere(model: Model, tmp_path: Path) -> None:
    """They do not say which examples they learned from; another class's weights stay."""
    file = tmp_path / "learned.state"
    with closing(learner_of(model, tmp_path / "one", tolerance=1.0)) as one:
        one.learn(halves(2), [NEW] * 2, now=True)
        now = one.store.current()
        write_state(file, model.manifest, now.weights, now.updates, now.examples)
    with closing(learner_of(model, tmp_path / "two", tolerance=1.0)) as two:
        assert two.apply(file).adopted
        two.add(halves(1, 1), ["another"])
        assert two.forget(name="another").first is None
        assert two.forget(name=model.classes[0]).first is None  # of which nothing was taken back
        assert two.version == 1
        found = two.forget(name=NEW)
        assert (found.evicted, found.first, two.version) == (2, 1, 0)
        assert (two.model.weights.tensors.get(KNOWN, np.ones(6))[6:] == 0).all()


def test_what_another_process_changed_meanwhile_counts(model: Model, tmp_path: Path) -> None:
    """Also where it took back as many examples as it added."""
    with (
        closing(learner_of(model, tmp_path / "state")) as one,
        closing(learner_of(model, tmp_path / "state")) as two,
    ):
        first = one.add(halves(1), [NEW])
        one.model.gaussians()
        two.forget(first)
        two.add(halves(1, 1), [NEW])
        one.add(halves(1, 2), [NEW])
        images = halves(4, 3)
        np.testing.assert_allclose(
            one.model.scores(images), two.refresh() and two.model.scores(images), rtol=1e-4, atol=1e-4
        )


def test_what_cannot_be_forgotten(model: Model, tmp_path: Path) -> None:
    """Nothing is changed then, of the others named either; of a class all is."""
    room = len(model.bundle.exemplars(1)) + 2
    with closing(learner_of(model, tmp_path / "state", replay_bytes=room * 256)) as learner:
        ids = learner.add(halves(30), [NEW] * 30)
        learner.learn(halves(2, 1), [NEW] * 2)
        stored = sorted(learner.store.ids("learned", "pending", "judging")[6])
        gone = sorted(set(ids) - set(stored))
        before, seed = learner.model.weights.statistics, learner.store.ids("bundle")[0][0]
        for id, said in ((gone[0], "was evicted"), (seed, "one of the bundle's"), (99_999, "there is none")):
            with pytest.raises(UsageError, match=said):
                learner.forget([stored[0], id])
        with pytest.raises(UsageError, match="unknown class 'cat'"):
            learner.forget(name="cat")
        assert same(learner.model.weights.statistics, before)
        found = learner.forget(name=NEW)
        assert (found.examples, found.evicted) == (tuple(stored), 32 - len(stored))
        assert learner.model.weights.statistics
        assert not learner.model.weights.statistics.counts.any()
        assert learner.model.scores(halves(5)).argmax(1).max() < 6


def test_of_evicted_examples_count_and_mean_go(model: Model) -> None:
    """How they were spread about it stays; another class's examples stay as they are."""
    images, labels = drawn(12)
    one, other = shown(model, images, labels.tolist()), shown(model, halves(30), [6] * 30)
    left = statistics.without_class(statistics.added(one, other), 6)
    np.testing.assert_array_equal(left.counts, one.counts)
    np.testing.assert_array_equal(left.sums, one.sums)
    spread = statistics.scatter(other)
    np.testing.assert_allclose(statistics.scatter(left) - statistics.scatter(one), spread, atol=1)
    assert same(statistics.without_class(other, 6), statistics.none(7, HOW.dimension))


# --- from device to device


def test_a_state_takes_them_along(model: Model, tmp_path: Path) -> None:
    """Weights and statistics; the other device's own examples go on to count, and a file counts once."""
    images, labels = drawn(12)
    file, own = tmp_path / "learned.state", shown(model, images, labels.tolist())
    with closing(learner_of(model, tmp_path / "one")) as one:
        one.learn(halves(3), [NEW] * 3)
        now = one.store.current()
        written = write_state(file, model.manifest, now.weights, 0, 0)
        read, state = read_state(file, model.manifest)
        assert (same(read.statistics, now.weights.statistics), state) == (True, written)
    with closing(learner_of(model, tmp_path / "two")) as two:
        two.learn(images, [model.classes[label] for label in labels])
        for _ in range(2):
            assert two.apply(file).adopted
            assert same(two.model.weights.statistics, statistics.added(own, shown(model, halves(3), [6] * 3)))
        assert (two.model.scores(halves(30, 1)).argmax(1) == 6).mean() > 0.9
        assert two.forget(name=NEW).evicted == 3
        assert same(two.model.weights.statistics, own)


def test_a_file_can_be_applied_again_after_its_class_was_forgotten(model: Model, tmp_path: Path) -> None:
    """What else is in it goes on to count, once, also where weights from it were dropped."""
    images, labels = drawn(12)
    names, file = [model.classes[label] for label in labels], tmp_path / "learned.state"
    known, new = shown(model, images, labels.tolist()), shown(model, halves(3), [6] * 3)
    export(model, tmp_path / "one", file, np.concatenate([images, halves(3)]), [*names, NEW, NEW, NEW])
    with closing(learner_of(model, tmp_path / "two")) as two:
        two.apply(file)
        assert two.forget(name=NEW).evicted == 3
        assert two.version == 0
        left = two.model.weights.statistics
        assert left
        np.testing.assert_array_equal(left.sums[:6], known.sums[:6])
        assert left.counts.sum() == 12
        two.apply(file)
        assert same(two.model.weights.statistics, statistics.added(known, new))


def test_a_rollback_takes_back_what_a_state_counted(model: Model, tmp_path: Path) -> None:
    """Of the device's own examples nothing; forwards again it counts again, with the versions made from it, too."""
    file, own = tmp_path / "learned.state", shown(model, halves(2, 5), [6, 6])
    export(model, tmp_path / "one", file, halves(3), [NEW] * 3)
    with closing(learner_of(model, tmp_path / "two", tolerance=1.0)) as two:
        two.add(halves(2, 5), [NEW] * 2)
        assert two.apply(file).version == 1
        both = statistics.added(own, shown(model, halves(3), [6] * 3))
        two.update()
        assert (two.version, same(two.model.weights.statistics, both)) == (2, True)
        for version, expected in ((0, own), (2, both), (1, both)):
            two.store.rollback(version)
            two.refresh()
            assert same(two.model.weights.statistics, expected)


def test_a_devices_own_file_does_not_count_twice(model: Model, tmp_path: Path) -> None:
    """Nor one from a device that had taken it."""
    first, second = tmp_path / "first.state", tmp_path / "second.state"
    export(model, tmp_path / "one", first, halves(3), [NEW] * 3)
    with closing(learner_of(model, tmp_path / "two")) as two:
        two.apply(first)
    export(model, tmp_path / "two", second, halves(1, 3), [NEW])
    with closing(learner_of(model, tmp_path / "one")) as one:
        for file in (first, second):
            assert one.apply(file).own
            assert same(one.model.weights.statistics, shown(model, halves(3), [6] * 3))


def export(model: Model, state: Path, file: Path, images: np.ndarray, names: list[str]) -> None:
    """What a device has learned, after these examples, as `export-state` writes it."""
    with closing(learner_of(model, state)) as learner:
        learner.add(images, names)
        now = learner.store.current()
        origins = learner.store.origins(now.version)
        write_state(file, model.manifest, now.weights, now.updates, now.examples, origins)


def test_a_state_of_other_statistics_is_refused(model: Model, tmp_path: Path) -> None:
    file, manifest = tmp_path / "learned.state", model.manifest
    other = structs.replace(manifest, statistics=structs.replace(HOW, seed=1))
    some = statistics.of(model.examples(halves(1)), np.zeros(1, int), 6)
    write_state(file, manifest, Weights({}, model.classes, statistics=some), 0, 0)
    with pytest.raises(BundleError, match="made otherwise"):
        read_state(file, other)
    write_state(file, manifest, Weights({}, model.classes, statistics=shown(model, halves(1), [6])), 0, 0)
    with pytest.raises(BundleError, match="more classes than it names"):
        read_state(file, manifest)
    write_state(file, manifest, Weights({}, model.classes, statistics=statistics.none(6, 40)), 0, 0)
    assert read_state(file, other)[0].statistics is None


def test_commands(model: Model, tmp_path: Path) -> None:
    """As they are typed: a new class from one picture, and without it."""
    bundle, files = shutil.copytree(model.path, tmp_path / "model.ff"), []
    for k, image in enumerate(halves(3)):
        files.append(str(tmp_path / f"{k}.png"))
        Image.fromarray(image[0]).save(files[-1])
    options = ("--no-preprocess", "--json", "--model", bundle)
    said = [command("learn", file, "--label", NEW, *options).stdout.splitlines()[0] for file in files]
    stored = [json.loads(line)["ids"] for line in said]
    assert json.loads(command("classify", files[2], *options).stdout)["label"] == NEW
    done = command("explain", files[2], "--label", NEW, *options, "--out", tmp_path / "map.png")
    assert (done.returncode, "has no row in the readouts" in done.stderr) == (2, True)
    done = command("export-state", tmp_path / "three.state", "--model", bundle)
    assert done.stdout.endswith("version 0; updates: 0, examples: 0; class statistics of 3 examples\n")
    done = command("apply-state", tmp_path / "three.state", "--model", bundle)
    assert "its class statistics were left out: examples of this very state are among them" in done.stdout
    command("rollback", "--model", bundle)
    done = command("forget", *stored[0], "--model", bundle)
    assert (done.returncode, done.stdout) == (0, "forgot 1 example; version 0 counts\n")
    told = json.loads(command("forget", "--label", NEW, "--json", "--model", bundle).stdout)
    assert (told["examples"], told["evicted"], told["version"]) == ([*stored[1], *stored[2]], 0, 0)
    assert json.loads(command("classify", files[2], *options).stdout)["label"] != NEW
    assert command("forget", "--model", bundle).returncode == 2
    assert command("forget", "1", "--label", NEW, "--model", bundle).returncode == 2
