"""The state directory: examples and versions in a SQLite database, weights in a file for each version.

What is in which file, and the order of events that nothing can upset, is in `docs/learning.md`.
"""

from __future__ import annotations

import contextlib
import datetime
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from msgspec import Struct

from ..bundle import WEIGHTS, Manifest, sha256, sync_directory
from ..errors import BundleError, StateError, StorageError, UsageError
from ..state_file import State, read_state, write_state

FORMAT = 1
APPLICATION = 0x46464544  # "FFED": SQLite's application_id of our databases
DATABASE, LOCK, VERSIONS = "learning.db", "learning.lock", "versions"
REPLAY_BYTES = 1 << 20  # of images
KEPT = 3  # versions whose weights stay on the flash
WELL_KNOWN = 20  # examples of a new class after which the linear classifier's word on it counts
PATIENCE = 30.0  # seconds to wait for another process that is writing
BUNDLES, PENDING, LEARNED, REFUSED = "bundle", "pending", "learned", "refused"  # what an example can be

Seeds: TypeAlias = Callable[[], tuple[np.ndarray, np.ndarray]]  # images uint8 (N, C, H, W), labels (N,)

SCHEMA = f"""
CREATE TABLE settings (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE classes (label INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE examples (
    id INTEGER PRIMARY KEY AUTOINCREMENT, label INTEGER NOT NULL, image BLOB NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('{BUNDLES}', '{PENDING}', '{LEARNED}', '{REFUSED}')), at TEXT NOT NULL
);
CREATE INDEX examples_by_status ON examples (status, label);
CREATE TABLE evictions (
    id INTEGER PRIMARY KEY, label INTEGER NOT NULL, status TEXT NOT NULL, version INTEGER NOT NULL, at TEXT NOT NULL
);
CREATE TABLE versions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, parent INTEGER NOT NULL, kind TEXT NOT NULL, adopted INTEGER NOT NULL,
    examples INTEGER NOT NULL, before REAL, after REAL, at TEXT NOT NULL, updates INTEGER NOT NULL,
    learned INTEGER NOT NULL, sha256 TEXT
);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {FORMAT};
"""


class Current(Struct, frozen=True):
    """What a device has learned, as it is now."""

    version: int  # 0: the bundle's own weights
    tensors: dict[str, np.ndarray]  # those that differ from the bundle's
    classes: tuple[str, ...]  # the bundle's, then those learned
    doubtful: frozenset[str]  # classes of which the linear classifier has seen few examples
    updates: int  # between the bundle's weights and these
    examples: int  # that they learned from


class Version(Struct, frozen=True):
    """A row of the history."""

    id: int
    parent: int
    kind: str  # update, applied
    adopted: bool
    examples: int  # that this version was the first to learn from
    before: float | None  # share of held-back examples that the shipped weights classify rightly, if there are any
    after: float | None  # and the new ones
    at: str  # UTC, by the device's clock
    updates: int
    learned: int
    sha256: str | None  # of its weights' file; None where they are no longer kept, or never were

    @property
    def kept(self) -> bool:
        """Whether it can be gone back to."""
        return self.sha256 is not None


def default_directory(bundle: Path) -> Path:
    """`model.state` beside `model.ff`."""
    named = bundle if bundle.name not in ("", "..") else bundle.resolve()
    return named.with_name(f"{named.name.removesuffix('.ff')}.state")


def current(directory: Path, manifest: Manifest) -> Current | None:
    """What was learned on the bundle of `manifest`, only reading; None where `directory` holds no state.

    Raises `StateError` for a damaged state or one of another bundle.
    """
    if not (directory / DATABASE).exists():
        return None
    with contextlib.closing(Store(directory, manifest, writing=False)) as store:
        return store.current()


class Store:
    """A state directory, opened. Safe to share between threads and, for all but updates, between processes."""

    def __init__(
        self, directory: Path, manifest: Manifest, writing: bool = True, seeds: Seeds | None = None
    ) -> None:
        """Open what is there, or with `writing` make it, `seeds` being the first examples to replay.

        Raises `StateError` for what is damaged or of another bundle, `StorageError`.
        """
        self.directory, self.manifest = directory, manifest
        self._guard = threading.RLock()
        with self._errors():
            if writing:
                (directory / VERSIONS).mkdir(parents=True, exist_ok=True)
            self._db = _connect(directory / DATABASE, writing)
        try:
            self._check(writing, seeds)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the database; what was acknowledged is durable without it."""
        with self._guard:
            self._db.close()

    # --- examples

    def add(self, images: np.ndarray, labels: Sequence[str]) -> list[int]:
        """Store examples, uint8 (N, C, H, W), durably, all or none; returns their ids.

        A class that is not known yet takes a spare pattern. Raises `UsageError` for images of another shape or more
        classes than patterns, `StorageError` where they cannot be stored.
        """
        shape = self.manifest.network.image.shape
        if images.dtype != np.uint8 or images.shape[1:] != shape or len(images) != len(labels):
            raise UsageError(
                f"examples: images must be uint8 (N, {', '.join(map(str, shape))}), one label for each"
            )
        with self._transaction() as db:
            numbers = self._labels(db, labels)
            now = _now()
            rows = ((label, image.tobytes(), PENDING, now) for image, label in zip(images, numbers, strict=True))
            return [
                int(
                    db.execute("INSERT INTO examples (label, image, status, at) VALUES (?, ?, ?, ?)", row).lastrowid
                    or 0
                )
                for row in rows
            ]

    def ids(self, *statuses: str) -> dict[int, list[int]]:
        """Stored examples of these statuses: label -> ids, in the order in which they came."""
        found: dict[int, list[int]] = {}
        marks = ", ".join("?" * len(statuses))
        for id, label in self._all(
            f"SELECT id, label FROM examples WHERE status IN ({marks}) ORDER BY id", statuses
        ):
            found.setdefault(label, []).append(id)
        return found

    def pending(self, most: int) -> list[int]:
        """Ids of examples that no update has learned from yet, oldest first."""
        return [
            id
            for (id,) in self._all("SELECT id FROM examples WHERE status = ? ORDER BY id LIMIT ?", (PENDING, most))
        ]

    def read(self, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Examples: images uint8 (N, C, H, W), labels int64 (N,), in the order of `ids`, which may repeat."""
        rows: dict[int, tuple[int, bytes]] = {}
        for start in range(0, len(ids), 500):  # SQLite binds no more than 999 in old versions
            some = list(dict.fromkeys(ids[start : start + 500]))
            marks = ", ".join("?" * len(some))
            for id, label, image in self._all(f"SELECT id, label, image FROM examples WHERE id IN ({marks})", some):
                rows[id] = (label, image)
        shape = self.manifest.network.image.shape
        images = np.empty((len(ids), *shape), np.uint8)
        try:
            for index, id in enumerate(ids):
                images[index] = np.frombuffer(rows[id][1], np.uint8).reshape(shape)
        except (KeyError, ValueError) as error:
            raise self._damaged("an example is missing or has another size") from error
        return images, np.array([rows[id][0] for id in ids], np.int64)

    def retry(self) -> int:
        """Make the examples of refused updates pending again; returns how many."""
        with self._transaction() as db:
            return db.execute("UPDATE examples SET status = ? WHERE status = ?", (PENDING, REFUSED)).rowcount

    def seen(self) -> dict[int, int]:
        """label -> how many examples of it were ever learned from, those evicted since included."""
        counted = self._all(
            "SELECT label, COUNT(*) FROM (SELECT label, status FROM examples UNION ALL SELECT label, status FROM "
            "evictions) WHERE status IN (?, ?) GROUP BY label",
            (BUNDLES, LEARNED),
        )
        return dict(counted)

    # --- classes and settings

    def classes(self) -> tuple[str, ...]:
        """The bundle's classes, then those that took a spare pattern here."""
        learned = [name for (name,) in self._all("SELECT name FROM classes ORDER BY label")]
        return (*self.manifest.classes, *learned)

    def setting(self, name: str) -> float | None:
        """A figure that the state remembers: `replay_bytes`, `shipped` (accuracy on held-back examples)."""
        row = self._all("SELECT value FROM settings WHERE name = ?", (name,))
        return row[0][0] if row else None

    def set(self, name: str, value: float) -> None:
        """Remember a figure."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))

    # --- versions

    def current(self) -> Current:
        """The version that counts now, with its weights. Raises `StateError` where they are damaged."""
        for _ in range(5):
            number, row = self._current_row()
            classes, doubtful = self.classes(), self._doubtful()
            if row is None:
                return Current(0, {}, classes, doubtful, 0, 0)
            file = self.version_file(number)
            try:
                if row.sha256 != sha256(file):
                    raise self._damaged(f"{file} is not what was adopted; go back with 'ffruntime rollback'")
                tensors, _ = read_state(file, self.manifest)
            except (FileNotFoundError, BundleError) as error:
                if self._current_row()[0] != number:  # another process has gone on meanwhile
                    continue
                raise self._damaged(f"{error}; go back with 'ffruntime rollback'") from error
            return Current(number, tensors, classes, doubtful, row.updates, row.learned)
        raise StateError(f"{self.directory}: versions change faster than they can be read; try again")

    def current_version(self) -> int:
        """Its number."""
        return self._current_row()[0]

    def history(self) -> list[Version]:
        """All versions, oldest first."""
        return [_version(row) for row in self._all("SELECT * FROM versions ORDER BY id")]

    def version_file(self, number: int) -> Path:
        """Where the weights of a version are."""
        return self.directory / VERSIONS / f"{number}.state"

    def adopt(
        self,
        parent: int,
        kind: str,
        tensors: Mapping[str, np.ndarray],
        examples: Sequence[int],
        evicted: Sequence[int] = (),
        before: float | None = None,
        after: float | None = None,
        learned: State | None = None,
    ) -> int:
        """Make a version of these weights and make it current; its number. Older ones' weights make room.

        `tensors`: all that differ from the bundle's. `examples` were learned from, `evicted` leave the store.
        `learned`: updates and examples of a state that came from elsewhere. Raises `StateError` where another
        process has changed the version meanwhile, `StorageError` where there is no room; nothing is changed then.
        """
        row = self._row(parent)
        updates = learned.updates if learned else (row.updates if row else 0) + 1
        total = learned.examples if learned else (row.learned if row else 0) + len(examples)
        number = 1 + int(
            self._all("SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'versions'")[0][0]
        )
        file = self.version_file(number)
        write_state(file, self.manifest, tensors, self.classes(), updates, total)
        version = (number, parent, kind, 1, len(examples), before, after, _now(), updates, total, sha256(file))
        with self._transaction() as db:
            if db.execute("SELECT value FROM settings WHERE name = 'current'").fetchone()[0] != parent:
                raise StateError(f"{self.directory}: another process has learned meanwhile; try again")
            db.execute(f"INSERT INTO versions VALUES ({', '.join('?' * len(version))})", version)
            self._mark(db, examples, LEARNED)
            for id in evicted:
                db.execute(
                    "INSERT INTO evictions SELECT id, label, status, ?, ? FROM examples WHERE id = ?",
                    (number, _now(), id),
                )
                db.execute("DELETE FROM examples WHERE id = ?", (id,))
            db.execute("UPDATE settings SET value = ? WHERE name = 'current'", (number,))
            self._forget(db, number)
        self.sweep()
        return number

    def refuse(self, parent: int, examples: Sequence[int], before: float, after: float) -> int:
        """Record an update that was not adopted; the version's number."""
        row = self._row(parent)
        with self._transaction() as db:
            values = (parent, "update", 0, len(examples), before, after, _now(), row.updates if row else 0, 0)
            number = db.execute(
                "INSERT INTO versions (parent, kind, adopted, examples, before, after, at, updates, learned) "
                f"VALUES ({', '.join('?' * len(values))})",
                values,
            ).lastrowid
            self._mark(db, examples, REFUSED)
        return int(number or 0)

    def rollback(self, to: int | None = None) -> int:
        """Make an earlier version current, by default the parent of the current one; its number.

        Examples stay. Raises `UsageError` where that version's weights are not kept.
        """
        with self._transaction():
            _, row = self._current_row()
            target = to if to is not None else (row.parent if row else 0)
            if row is None and to is None:
                raise UsageError("nothing was learned yet, so there is nothing to go back from")
            kept = {0, *(version.id for version in self.history() if version.kept)}
            if target not in kept:
                raise UsageError(
                    f"version {target}: its weights are not kept; kept: {', '.join(map(str, sorted(kept)))}"
                )
            self._db.execute("UPDATE settings SET value = ? WHERE name = 'current'", (target,))
        return target

    def take_classes(self, classes: Sequence[str]) -> None:
        """Know all of `classes`, which begin with those known here, or are the beginning of them."""
        known = self.classes()
        shorter = min(len(known), len(classes))
        if tuple(classes[:shorter]) != known[:shorter]:
            raise UsageError(
                f"it knows the classes {', '.join(classes)}, and {self.directory} {', '.join(known)}: "
                "the same pattern would mean two things"
            )
        with self._transaction() as db:
            self._labels(db, classes)

    def sweep(self) -> None:
        """Remove the weights' files that no version has: what a crash left, and what is no longer kept."""
        kept = {self.version_file(version.id).name for version in self.history() if version.kept}
        with self._errors():
            for file in (self.directory / VERSIONS).iterdir():
                if file.name not in kept:
                    file.unlink(missing_ok=True)

    # --- inside

    def _check(self, writing: bool, seeds: Seeds | None) -> None:
        """That the database is ours, whole, and of this bundle; a new one is set up."""
        with self._errors():
            application, version = (
                self._db.execute(f"PRAGMA {n}").fetchone()[0] for n in ("application_id", "user_version")
            )
            empty = not self._db.execute("SELECT 1 FROM sqlite_master").fetchone()
        if empty and writing:
            self._set_up(seeds)
        elif empty:
            raise self._damaged(
                "its database is empty: learning was interrupted before it began; run 'ffruntime learn'"
            )
        elif application != APPLICATION:
            raise StateError(f"{self.directory / DATABASE}: a database of another program; name another --state")
        elif version != FORMAT:
            raise StateError(
                f"{self.directory / DATABASE}: format {version} is none that this program reads ({FORMAT})"
            )
        with self._errors():
            if writing and (said := self._db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise self._damaged(said)
        own = self.manifest.files[WEIGHTS].sha256
        of = self.setting("weights")
        if of != own:
            raise StateError(
                f"{self.directory}: learned on another bundle, of weights {str(of)[:12]} and not {own[:12]}; "
                "name another --state, or 'ffruntime reset' it"
            )

    def _set_up(self, seeds: Seeds | None) -> None:
        """Tables and the first examples, in one transaction."""
        images, labels = seeds() if seeds else ((), ())
        now = _now()
        with self._transaction() as db:
            if db.execute("SELECT 1 FROM sqlite_master").fetchone():
                return  # another process was faster
            for statement in SCHEMA.split(";"):
                db.execute(statement)
            first = {"weights": self.manifest.files[WEIGHTS].sha256, "current": 0, "replay_bytes": REPLAY_BYTES}
            db.executemany("INSERT INTO settings VALUES (?, ?)", list(first.items()))
            db.executemany(
                "INSERT INTO examples (label, image, status, at) VALUES (?, ?, ?, ?)",
                [(int(label), image.tobytes(), BUNDLES, now) for image, label in zip(images, labels, strict=True)],
            )
        with self._errors():
            sync_directory(self.directory)
            sync_directory(self.directory.parent)

    def _labels(self, db: sqlite3.Connection, names: Sequence[str]) -> list[int]:
        """The label of each class; new classes take the next spare pattern."""
        known = {name: label for label, name in enumerate(self.classes())}
        patterns = self.manifest.network.label.patterns
        for name in names:
            if name in known:
                continue
            if not name or not name.isprintable() or len(name) > 200:
                raise UsageError(f"{name!r} is no name for a class")
            if len(known) == patterns:
                raise UsageError(
                    f"'{name}' would be class number {patterns + 1}, but the bundle has {patterns} label patterns; "
                    f"known: {', '.join(known)}"
                )
            db.execute("INSERT INTO classes VALUES (?, ?)", (len(known), name))
            known[name] = len(known)
        return [known[name] for name in names]

    def _doubtful(self) -> frozenset[str]:
        seen, classes = self.seen(), self.classes()
        first = len(self.manifest.classes)
        return frozenset(
            name for label, name in enumerate(classes[first:], first) if seen.get(label, 0) < WELL_KNOWN
        )

    def _current_row(self) -> tuple[int, Version | None]:
        with self._guard:
            number = self.setting("current")
            row = self._row(int(number)) if isinstance(number, int) else None
        if number is None or (number and row is None):
            raise self._damaged("it does not say which version is current")
        return int(number), row

    def _row(self, number: int) -> Version | None:
        rows = self._all("SELECT * FROM versions WHERE id = ?", (number,))
        return _version(rows[0]) if rows else None

    def _forget(self, db: sqlite3.Connection, number: int) -> None:
        """Versions beyond the retention limit lose their weights; never the one that is current."""
        kept = [
            i for (i,) in db.execute("SELECT id FROM versions WHERE sha256 IS NOT NULL ORDER BY id DESC").fetchall()
        ]
        for old in kept[KEPT:]:
            if old != number:
                db.execute("UPDATE versions SET sha256 = NULL WHERE id = ?", (old,))

    @staticmethod
    def _mark(db: sqlite3.Connection, examples: Sequence[int], status: str) -> None:
        db.executemany(
            "UPDATE examples SET status = ? WHERE id = ? AND status = ?", [(status, id, PENDING) for id in examples]
        )

    def _all(self, query: str, values: Sequence[object] = ()) -> list[tuple]:
        with self._guard, self._errors():
            return self._db.execute(query, tuple(values)).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All of the block, or nothing of it; durable when it ends."""
        with self._guard, self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """What SQLite and the file system say, in our words."""
        try:
            yield
        except sqlite3.OperationalError as error:
            said = str(error)
            if "locked" in said or "busy" in said:
                raise StateError(f"{self.directory}: another process is writing to it; try again") from error
            if "malformed" in said:
                raise self._damaged(said) from error
            raise StorageError(f"{self.directory}: {said}; what was saved is unchanged") from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from error
        except OSError as error:
            raise StorageError(f"{self.directory}: {error.strerror}; what was saved is unchanged") from error

    def _damaged(self, what: str) -> StateError:
        return StateError(f"{self.directory}: damaged: {what}; or begin anew with 'ffruntime reset'")


def _connect(file: Path, writing: bool) -> sqlite3.Connection:
    """A connection without implicit transactions; reading works on read-only media, too."""
    if writing:
        db = sqlite3.connect(file, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        return db
    address = f"{file.absolute().as_uri()}?mode=ro"
    with contextlib.suppress(sqlite3.OperationalError):
        db = sqlite3.connect(address, uri=True, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        db.execute("SELECT 1 FROM sqlite_master").fetchone()
        return db
    log = file.with_name(f"{file.name}-wal")
    if log.exists() and log.stat().st_size:
        raise StateError(f"{file.parent}: was not closed, and can only be opened where it can be written to")
    return sqlite3.connect(f"{address}&immutable=1", uri=True, isolation_level=None, check_same_thread=False)


def _version(row: tuple) -> Version:
    id, parent, kind, adopted, *others = row
    return Version(id, parent, kind, bool(adopted), *others)


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
