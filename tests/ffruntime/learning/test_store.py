"""The state directory: examples, classes and versions; whatever is wrong with it is one clear line."""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from pictures import CLASSES
from shapes import BYTES, SHAPE

from ffruntime.core import state
from ffruntime.core.bundle import Bundle
from ffruntime.core.data import Examples
from ffruntime.core.errors import BundleError, FFError, StateError, StorageError, UsageError
from ffruntime.core.manifest import Manifest
from ffruntime.core.state import Weights, read_state, write_state
from ffruntime.learning import database, versions
from ffruntime.learning import store as module
from ffruntime.learning.directory import current, reset
from ffruntime.learning.store import BUNDLES, LEARNED, PENDING, REFUSED, Store

IMAGES = np.arange(20 * BYTES, dtype=np.uint32).astype(np.uint8).reshape(20, *SHAPE)


@pytest.fixture(scope="module")
def manifest(exported: Path) -> Manifest:
    return Bundle(exported).manifest


@pytest.fixture(scope="module")
def weights(exported: Path) -> dict[str, np.ndarray]:
    return Bundle(exported).weights()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "model.state"


@pytest.fixture
def store(place: Path, manifest: Manifest) -> Iterator[Store]:
    with closing(Store(place, manifest)) as opened:
        yield opened


def bias(value: float, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"head.bias": np.full_like(weights["head.bias"], value)}


def adopt(store: Store, weights: dict[str, np.ndarray], count: int = 1) -> list[int]:
    """So many versions, one after another, each of other weights."""
    return [
        store.adopt(store.current_version(), "update", bias(len(store.history()), weights), ())
        for _ in range(count)
    ]


# --- examples


def test_examples_come_back_as_they_were(store: Store, place: Path, manifest: Manifest) -> None:
    labels = [CLASSES[index % 6] for index in range(20)]
    ids = store.add(IMAGES, labels)
    assert store.pending() == ids == sorted(ids)
    assert store.pending(3) == ids[:3]
    store.close()
    with closing(Store(place, manifest)) as again:
        read = again.read([*ids[::-1], ids[0]])  # in any order, and repeated
    np.testing.assert_array_equal(read.pixels, np.concatenate([IMAGES[::-1], IMAGES[:1]]))
    assert [CLASSES[number] for number in read.labels] == [*labels[::-1], labels[0]]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (IMAGES[:1].astype(np.float32), ["dots"]),
        (IMAGES[:1, :, :15], ["dots"]),
        (IMAGES[0], ["dots"]),
        (IMAGES[:2], ["dots"]),
        (IMAGES[:1], [""]),
        (IMAGES[:1], ["two\nlines"]),
        (IMAGES[:1], ["x" * 201]),
        (IMAGES[:3], ["new", "newer", "newest"]),  # but two spare patterns
    ],
)
def test_all_of_the_examples_or_none(images: np.ndarray, labels: list[str], store: Store) -> None:
    with pytest.raises(UsageError):
        store.add(images, labels)
    assert store.pending() == []
    assert len(store.classes()) == 6


def test_a_new_class_takes_the_next_pattern_for_good(store: Store, place: Path, manifest: Manifest) -> None:
    store.add(IMAGES[:3], ["b", "dots", "b"])
    store.add(IMAGES[:1], ["a"])
    assert store.classes() == (*CLASSES, "b", "a")
    store.rollback(0)
    assert store.classes()[6:] == ("b", "a")
    now = current(place, manifest)
    assert now.weights.classes == store.classes()
    assert now.weights.undertrained == {"a", "b"}


def test_what_was_read_is_read_again_when_another_process_changed_it(
    store: Store, place: Path, manifest: Manifest, weights: dict[str, np.ndarray]
) -> None:
    """A second connection stands for the other process; what was asked for before is remembered."""

    def told() -> tuple[object, ...]:
        return store.classes(), store.count(), store.current_version(), store.setting("replay_bytes")

    store.add(IMAGES[:2], ["dots", "dots"])
    assert told() == (CLASSES, 2, 0, store.setting("replay_bytes"))
    with closing(Store(place, manifest)) as other:
        other.add(IMAGES[2:5], ["new", "dots", "new"])
        other.set("replay_bytes", 17)
        (number,) = adopt(other, weights)
        assert told() == ((*CLASSES, "new"), 5, number, 17)
        store.add(IMAGES[5:7], ["newer", "new"])
        assert (other.classes(), other.count()) == ((*CLASSES, "new", "newer"), 7) == told()[:2]


def test_what_was_not_stored_is_not_remembered(store: Store) -> None:
    store.add(IMAGES[:1], ["dots"])
    with pytest.raises(UsageError):
        store.add(IMAGES[:2], ["new", ""])  # the first name has taken a pattern by then
    assert (store.classes(), store.count()) == (CLASSES, 1)
    store.add(IMAGES[:1], ["newer"])
    assert (store.classes(), store.count()) == ((*CLASSES, "newer"), 2)


def test_numbers_are_never_given_twice(store: Store, weights: dict[str, np.ndarray]) -> None:
    ids = store.add(IMAGES, ["dots"] * 20)
    store.adopt(0, "update", bias(1, weights), ids, evicted=ids[10:])
    assert min(store.add(IMAGES[:1], ["dots"])) == ids[-1] + 1
    assert store.ids(LEARNED) == {3: ids[:10]}
    assert store.seen() == {3: 20}  # those evicted count


def test_what_was_evicted_leaves_no_hole_in_the_file(
    store: Store, place: Path, weights: dict[str, np.ndarray]
) -> None:
    sizes = []
    ids = store.add(np.repeat(IMAGES, 150, 0), ["dots"] * 3000)
    for evicted in ((), ids[:2700]):
        store.adopt(store.current_version(), "update", bias(1, weights), ids, evicted=evicted)
        with closing(sqlite3.connect(place / "learning.db")) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        sizes.append((place / "learning.db").stat().st_size)
    assert sizes[0] > 3000 * BYTES
    assert sizes[1] < 0.3 * sizes[0]


def test_every_directory_that_is_made_is_durable(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(database, "sync_directory", synced.append)
    for _ in range(2):
        Store(tmp_path / "a" / "b" / "c.state", manifest).close()
    assert synced == [tmp_path / "a" / "b", tmp_path / "a", tmp_path]


def test_refused_examples_are_kept_and_can_be_tried_again(store: Store) -> None:
    ids = store.add(IMAGES[:4], ["dots"] * 4)
    assert store.refuse(0, "update", ids, 0.9, 0.1, evicted=ids[:1]) == 1
    assert store.current_version() == 0
    assert (store.pending(), store.ids(REFUSED)) == ([], {3: ids[1:]})
    assert store.retry() == 3
    assert store.pending() == ids[1:]
    (version,) = store.history()
    assert (version.adopted, version.kept, version.examples, version.after) == (False, False, 4, 0.1)


def test_what_is_pending_again_is_not_evicted(store: Store, weights: dict[str, np.ndarray]) -> None:
    """Another process says `learn --retry` between the choice of what goes and its going."""
    ids = store.add(IMAGES[:3], ["dots"] * 3)
    store.refuse(0, "update", ids, 0.9, 0.1)
    store.retry()
    store.adopt(0, "update", bias(1, weights), (), evicted=ids[:1])
    store.refuse(1, "update", (), 0.9, 0.1, evicted=ids[1:])
    assert store.pending() == ids
    with closing(sqlite3.connect(store.directory / "learning.db")) as db:
        assert db.execute("SELECT * FROM evictions").fetchall() == []


# --- versions


def test_the_newest_versions_are_kept_with_the_current_one_and_its_parent(
    store: Store, weights: dict[str, np.ndarray]
) -> None:
    adopt(store, weights, 5)
    assert [version.id for version in store.history() if version.kept] == [3, 4, 5]
    assert store.rollback() == 4
    assert store.rollback(3) == 3
    assert adopt(store, weights) == [6]  # from 3
    assert [version.id for version in store.history() if version.kept] == [3, 5, 6]
    assert sorted(file.name for file in store.version_file(6).parent.iterdir()) == ["3.state", "5.state", "6.state"]
    assert store.rollback() == 3
    with pytest.raises(UsageError, match="0, 3, 5, 6"):
        store.rollback(4)
    assert store.rollback(0) == 0
    with pytest.raises(UsageError, match="nothing to go back from"):
        store.rollback()


def test_updates_and_examples_are_counted_along_the_branch(store: Store, weights: dict[str, np.ndarray]) -> None:
    first = store.adopt(0, "update", bias(1, weights), store.add(IMAGES[:3], ["dots"] * 3))
    store.refuse(first, "update", store.add(IMAGES[:9], ["dots"] * 9), 0.9, 0.1)
    store.adopt(first, "update", bias(2, weights), store.add(IMAGES[:4], ["dots"] * 4))
    now = store.current()
    assert (now.version, now.updates, now.examples) == (3, 2, 7)
    store.rollback(0)
    store.adopt(0, "update", bias(3, weights), store.add(IMAGES[:5], ["dots"] * 5))
    now = store.current()
    assert (now.version, now.updates, now.examples) == (4, 1, 5)
    np.testing.assert_array_equal(now.weights.tensors["head.bias"], 3)


def test_who_was_overtaken_adopts_nothing(store: Store, weights: dict[str, np.ndarray]) -> None:
    ids = store.add(IMAGES[:1], ["dots"])
    adopt(store, weights)
    with pytest.raises(StateError, match="meanwhile"):
        store.adopt(0, "update", bias(7, weights), ids)
    assert store.current_version() == 1
    assert store.pending() == ids
    assert len(list(store.version_file(1).parent.iterdir())) == 1


def test_what_a_crash_left_is_swept_and_nothing_else(store: Store, weights: dict[str, np.ndarray]) -> None:
    folder = store.version_file(1).parent
    for name in ("7.state", ".8.state.new", "notes.txt", "my.state"):
        (folder / name).write_text("")
    adopt(store, weights)
    assert sorted(file.name for file in folder.iterdir()) == ["1.state", "my.state", "notes.txt"]


def test_order_is_by_number_whatever_the_clock_says(
    store: Store, weights: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    year = iter(range(2030, 1970, -1))
    monkeypatch.setattr(module, "utc", lambda: datetime.datetime(next(year), 1, 1).isoformat())
    ids = store.add(IMAGES, ["dots"] * 20)
    assert adopt(store, weights, 4) == [1, 2, 3, 4]
    assert store.pending() == ids
    assert [version.id for version in store.history() if version.kept] == [2, 3, 4]
    assert [version.at for version in store.history()] == sorted((v.at for v in store.history()), reverse=True)
    assert store.rollback() == 3


# --- states from elsewhere


def apply(store: Store, file: Path) -> int:
    weights, state = read_state(file, store.manifest)
    return store.adopt(store.current_version(), "applied", weights.tensors, (), learned=state)


def test_what_another_device_learned(
    store: Store, place: Path, manifest: Manifest, weights: dict[str, np.ndarray], tmp_path: Path
) -> None:
    adopt(store, weights)
    file = tmp_path / "other.state"
    write_state(file, manifest, Weights(bias(5, weights), (*manifest.classes, "new")), updates=7, examples=70)
    assert apply(store, file) == 2
    now = current(place, manifest)
    np.testing.assert_array_equal(now.weights.tensors["head.bias"], 5)
    assert (now.weights.classes[6:], now.weights.undertrained) == (("new",), {"new"})
    assert (now.updates, now.examples) == (7, 70)
    assert (store.history()[-1].kind, store.rollback()) == ("applied", 1)


def test_a_class_is_well_known_only_under_weights_that_saw_it(
    store: Store, manifest: Manifest, weights: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Counts grow, but a version's weights saw what they saw: also after a rollback, or a state from elsewhere."""
    many = np.concatenate([IMAGES, IMAGES])
    first = store.adopt(0, "update", bias(1, weights), store.add(many[:31], ["dots"] * 30 + ["new"]))
    assert store.current().weights.undertrained == {"new"}
    store.adopt(first, "update", bias(2, weights), store.add(IMAGES, ["new"] * 20))
    assert store.current().weights.undertrained == set()
    store.rollback(first)
    assert store.current().weights.undertrained == {"new"}
    for classes, undertrained in ((manifest.classes, ()), ((*manifest.classes, "new"), ("new",))):
        theirs = Weights(bias(3, weights), classes, frozenset(undertrained))
        write_state(tmp_path / "their.state", manifest, theirs, 5, 500)
        apply(store, tmp_path / "their.state")
        assert store.current().weights.undertrained == {"new"}
    store.rollback(0)
    store.adopt(0, "update", bias(4, weights), store.add(IMAGES[:1], ["new"]))
    assert store.current().weights.undertrained == {"new"}


def test_a_state_that_cannot_be_adopted_takes_no_pattern(
    store: Store,
    manifest: Manifest,
    weights: dict[str, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_arguments: object) -> None:
        raise StorageError("no room")

    theirs = Weights(bias(5, weights), (*manifest.classes, "new"))
    write_state(tmp_path / "their.state", manifest, theirs, 7, 70)
    monkeypatch.setattr(versions, "write_state", full)
    with pytest.raises(StorageError, match="no room"):
        apply(store, tmp_path / "their.state")
    assert (store.classes(), store.history()) == (manifest.classes, [])


def test_a_pattern_cannot_mean_two_things(
    store: Store, manifest: Manifest, weights: dict[str, np.ndarray], tmp_path: Path
) -> None:
    store.add(IMAGES[:1], ["mine"])
    file = tmp_path / "other.state"
    write_state(file, manifest, Weights(bias(5, weights), (*manifest.classes, "theirs")), 1, 1)
    with pytest.raises(UsageError, match=r"mine.*the same pattern"):
        apply(store, file)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BundleError, match="damaged"):
        apply(store, file)
    assert store.history() == []
    assert store.classes()[6:] == ("mine",)


def test_a_version_is_a_state_file(store: Store, manifest: Manifest, weights: dict[str, np.ndarray]) -> None:
    adopt(store, weights)
    read, state = read_state(store.version_file(1), manifest)
    assert read.tensors.keys() == {"head.bias"}
    assert (state.updates, state.classes) == (1, manifest.classes)


# --- whatever is wrong


def edit(place: Path, *statements: str) -> None:
    """Change the database as somebody else would, whatever its constraints say."""
    with closing(sqlite3.connect(place / "learning.db", isolation_level=None)) as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        for statement in statements:
            db.execute(statement)


def sql(*statements: str) -> Callable[[Path], None]:
    return lambda place: edit(place, *statements)


def overwrite(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda place: (place / name).write_bytes(change((place / name).read_bytes())) and None


def zero_pages(data: bytes) -> bytes:
    return data[:4096] + bytes(8192) + data[12288:]


DAMAGE: dict[str, Callable[[Path], object]] = {
    "garbage": overwrite("learning.db", lambda data: b"garbage" * (len(data) // 7)),
    "cut off": overwrite("learning.db", lambda data: data[: len(data) // 2]),
    "pages lost": overwrite("learning.db", zero_pages),
    "no database": lambda place: (place / "learning.db").unlink(),
    "an empty database": overwrite("learning.db", lambda _: b""),
    "a folder as database": lambda place: ((place / "learning.db").unlink(), (place / "learning.db").mkdir()),
    "no weights": lambda place: (place / "versions" / "2.state").unlink(),
    "no versions": lambda place: shutil.rmtree(place / "versions"),
    "other weights": overwrite("versions/2.state", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
    "weights cut off": overwrite("versions/2.state", lambda data: data[:-1]),
    "another bundle": sql("UPDATE settings SET value = 'abc' WHERE name = 'weights'"),
    "of no bundle": sql("DELETE FROM settings WHERE name = 'weights'"),
    "a newer format": sql("PRAGMA user_version = 2"),
    "no current": sql("DELETE FROM settings WHERE name = 'current'"),
    "current a word": sql("UPDATE settings SET value = 'two' WHERE name = 'current'"),
    "current out of range": sql("UPDATE settings SET value = 99 WHERE name = 'current'"),
    "current without weights": sql("UPDATE versions SET sha256 = NULL"),
    "a class twice": sql("INSERT INTO classes VALUES (6, 'dots')"),
    "a class far off": sql("INSERT INTO classes VALUES (99, 'x')"),
    "a class in the bundle's place": sql("INSERT INTO classes VALUES (0, 'x')"),
    "too many classes": sql(*(f"INSERT INTO classes VALUES ({6 + n}, 'x{n}')" for n in range(3))),
    "a class without name": sql("INSERT INTO classes VALUES (6, x'ff')"),
    "a version of words": sql("UPDATE versions SET updates = 'many' WHERE id = 2"),
    "text that is none": sql("UPDATE versions SET sha256 = CAST(x'ff00ff' AS TEXT) WHERE id = 2"),
    "a table too few": sql("DROP TABLE evictions"),
    "a table too many": sql("CREATE TABLE mine (x)"),
    "a trigger": sql("CREATE TRIGGER t AFTER INSERT ON examples BEGIN DELETE FROM examples; END"),
}
ONLY_WHO_LEARNS = {  # reads this
    "an image of another size": sql("UPDATE examples SET image = x'00'"),
    "a huge image": sql("UPDATE examples SET image = zeroblob(10000000) WHERE id = 21"),
    "an image of text": sql("UPDATE examples SET image = 'text'"),
    "a label out of range": sql("UPDATE examples SET label = 8"),
    "a negative label": sql("UPDATE examples SET label = -1"),
    "a label of text": sql("UPDATE examples SET label = 'three'"),
    "a status of its own": sql("UPDATE examples SET status = 'mine'"),
    "no replay": sql("UPDATE settings SET value = 'lots' WHERE name = 'replay_bytes'"),
    "an eviction of what is there": sql("INSERT INTO evictions SELECT id, 3, 'learned', 1, '', NULL FROM examples"),
}


@pytest.fixture
def learned(place: Path, manifest: Manifest, weights: dict[str, np.ndarray]) -> Path:
    """A state with two versions, and an example that is pending."""
    with closing(Store(place, manifest, seeds=lambda: Examples(IMAGES, np.arange(20) % 6))) as store:
        adopt(store, weights, 2)
        store.add(IMAGES[:1], ["dots"])
    return place


def learn_all(place: Path, manifest: Manifest, weights: dict[str, np.ndarray]) -> None:
    """Everything that an update reads and writes."""
    with closing(Store(place, manifest)) as store:
        ids = store.pending() or [1]
        store.read([id for some in store.ids(BUNDLES, LEARNED, PENDING).values() for id in some])
        store.setting("replay_bytes")
        store.adopt(store.current().version, "update", bias(9, weights), ids, evicted=ids)


def assert_reset_helps(place: Path, manifest: Manifest, weights: dict[str, np.ndarray]) -> None:
    reset(place)
    assert not place.exists()
    with closing(Store(place, manifest)) as store:
        assert store.current().version == 0
        assert adopt(store, weights) == [1]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_clear_line(
    damage: str, learned: Path, manifest: Manifest, weights: dict[str, np.ndarray]
) -> None:
    DAMAGE[damage](learned)
    for use in (lambda: current(learned, manifest), lambda: learn_all(learned, manifest, weights)):
        with pytest.raises(FFError) as caught:
            use()
        assert "\n" not in str(caught.value)
        assert str(learned) in str(caught.value)
    if damage == "a folder as database":
        (learned / "learning.db").rmdir()
    assert_reset_helps(learned, manifest, weights)


@pytest.mark.parametrize("damage", ONLY_WHO_LEARNS)
def test_damaged_examples_are_one_clear_line(
    damage: str, learned: Path, manifest: Manifest, weights: dict[str, np.ndarray]
) -> None:
    ONLY_WHO_LEARNS[damage](learned)
    assert current(learned, manifest).version == 2  # who classifies does not care
    with pytest.raises(StateError) as caught:
        learn_all(learned, manifest, weights)
    assert "\n" not in str(caught.value)
    assert_reset_helps(learned, manifest, weights)


@pytest.mark.parametrize("damage", ["no weights", "other weights", "weights cut off"])
def test_rollback_helps_where_weights_are_damaged(damage: str, learned: Path, manifest: Manifest) -> None:
    DAMAGE[damage](learned)
    with pytest.raises(StateError, match="ffruntime rollback"):
        current(learned, manifest)
    with closing(Store(learned, manifest)) as store:
        assert store.rollback() == 1
        with pytest.raises(StateError):
            store.rollback(2)
        assert store.current().version == 1
        assert store.pending()


def test_too_many_open_files_are_no_reason_to_go_back(
    learned: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    for place in (versions, state):
        with monkeypatch.context() as patch:
            patch.setattr(place, "sha256" if place is versions else "read_regular", refuse)
            with pytest.raises(StateError, match=r"Too many open files$"):
                current(learned, manifest)


def test_rollback_to_the_bundle_needs_no_current_version(learned: Path, manifest: Manifest) -> None:
    DAMAGE["no current"](learned)
    with closing(Store(learned, manifest)) as store:
        with pytest.raises(StateError, match="rollback 0"):
            store.rollback()
        store.rollback(0)
        assert store.current().version == 0


def test_what_another_program_has_stays(place: Path, manifest: Manifest) -> None:
    place.mkdir()
    with closing(sqlite3.connect(place / "learning.db")) as db:
        db.execute("CREATE TABLE theirs (x)")
    before = (place / "learning.db").read_bytes()
    for use in (lambda: current(place, manifest), lambda: Store(place, manifest), lambda: reset(place)):
        with pytest.raises(StateError, match="another program"):
            use()
    assert [(file.name, file.read_bytes()) for file in place.iterdir()] == [("learning.db", before)]


def test_reset_deletes_only_what_is_ours(learned: Path) -> None:
    (learned / "notes.txt").write_text("mine")
    (learned / "versions" / "mine.txt").write_text("mine")
    (learned / "versions" / ".3.state.new").write_text("")
    reset(learned)
    assert {file.name for file in learned.rglob("*")} == {"notes.txt", "versions", "mine.txt"}


def test_where_nothing_was_learned(place: Path, manifest: Manifest) -> None:
    assert current(place, manifest) is None
    place.mkdir()
    with closing(Store(place, manifest, writing=False)) as store:
        now = store.current()
        assert (now.version, now.weights.classes, store.history()) == (0, manifest.classes, [])
    assert list(place.iterdir()) == []  # reading leaves nothing
    (place / "learning.db").write_bytes(b"")  # begun, and killed at once
    assert current(place, manifest).version == 0
    with closing(Store(place, manifest, seeds=lambda: Examples(IMAGES, np.arange(20) % 6))) as store:
        assert len(store.ids(BUNDLES)) == 6


# --- reset beside others, and of whatever is there


def test_reset_waits_for_who_is_storing(store: Store, place: Path, manifest: Manifest) -> None:
    with store._db.transaction() as db:
        resetting = threading.Thread(target=reset, args=(place,))
        resetting.start()
        resetting.join(0.3)
        assert resetting.is_alive()
        db.execute(module.INSERT, (0, IMAGES[0].tobytes(), None, 0, PENDING, ""))
    resetting.join()
    with closing(Store(place, manifest)) as other:
        assert other.pending() == []
        with pytest.raises(StateError, match="was reset"):
            store.add(IMAGES[:1], ["dots"])
        other.add(IMAGES[:1], ["dots"])
        with pytest.raises(StateError, match="was reset"):
            store.add(IMAGES[:1], ["dots"])
        assert other.pending() == [1]


@pytest.mark.slow
def test_what_is_acknowledged_after_a_reset_is_there(place: Path, manifest: Manifest) -> None:
    acknowledged: list[int] = []
    done = threading.Event()

    def add() -> None:
        while not done.is_set():
            with contextlib.suppress(StateError), closing(Store(place, manifest)) as opened:
                while not done.is_set():
                    acknowledged.extend(opened.add(IMAGES[:1], ["dots"]))

    for _ in range(6):
        done.clear()
        adding = threading.Thread(target=add)
        adding.start()
        with contextlib.suppress(StateError):  # between two that are adding, it may wait in vain
            reset(place)
            acknowledged.clear()  # what came before may be gone
        done.wait(0.02)
        done.set()
        adding.join()
        with closing(Store(place, manifest)) as opened:
            assert set(acknowledged[1:]) <= set(opened.pending())  # the first may have come before


def test_a_damaged_byte_anywhere_is_one_clear_line(learned: Path, manifest: Manifest) -> None:
    file = learned / "learning.db"
    with closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = file.read_bytes()
    for place in (2788, *range(0, 3 * 4096, 37)):
        file.write_bytes(whole[:place] + b"\x90" + whole[place + 1 :])
        try:
            with closing(Store(learned, manifest, writing=False)) as store:
                store.current(), store.history(), store.seen(), store.pending()
        except StateError:
            pass
        else:
            continue
        if place % 5 == 0:
            reset(learned)
            assert not file.exists()
            learned.mkdir(exist_ok=True)


@pytest.mark.parametrize("name", ["learning.db", "versions"])
def test_nothing_is_written_through_a_link(name: str, learned: Path, manifest: Manifest, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    shutil.move(learned / name, outside)
    (learned / name).symlink_to(outside)
    files = [file for file in (outside, *outside.rglob("*")) if file.is_file()]
    before = [file.read_bytes() for file in files]
    with pytest.raises(StateError, match=r"link|no regular file"):
        Store(learned, manifest)
    reset(learned)
    assert not learned.exists()
    assert [file.read_bytes() for file in files] == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.posix
def test_a_store_does_not_follow_a_fork(store: Store, place: Path, manifest: Manifest) -> None:
    """What was open is refused in one line, what was closed is opened, and the parent goes on."""
    store.add(IMAGES[:1], ["dots"])
    closed = place.with_name("closed.state")
    Store(closed, manifest).close()
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            for use in (store.pending, lambda: store.add(IMAGES[:1], ["dots"]), lambda: Store(place, manifest)):
                with pytest.raises(StateError, match="was open when this process was forked"):
                    use()
            store.close()
            with closing(Store(closed, manifest)) as own:
                own.add(IMAGES[:1], ["dots"])
            code = 0
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    store.add(IMAGES[:1], ["dots"])
    assert store.pending() == [1, 2]
