"""What a device stores of its learning: examples, classes and versions, in a state directory or in memory.

Examples, classes and the rows of the versions lie in a SQLite database, the weights of each version beside it. What
is in which file, and the order of events that nothing can upset, is in `docs/learning.md`.
"""

from __future__ import annotations

import math
import secrets
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np

from ..core.data import Examples, require_images
from ..core.errors import StateError, UsageError
from ..core.learning import REPLAY_BYTES
from ..core.manifest import WEIGHTS, Manifest
from ..core.state import State, Weights
from .counted import Anew, Counted, Told
from .database import Database
from .forgetting import Forgotten, forget_examples, released, with_elsewhere
from .names import Names, require_names
from .tables import BUNDLES, INSERT, LEARNED, PENDING, REFUSED, create, evict, mark, utc
from .versions import VERSIONS, Current, Version, VersionWeights, forget, next_number, origin, record

WELL_KNOWN = 20  # examples of a new class from which on it is no longer undertrained

Seeds: TypeAlias = Callable[[], Examples]


class Store:
    """A state directory, opened, or the same in memory. Safe to share between threads, and between processes."""

    def __init__(
        self, directory: Path | None, manifest: Manifest, writing: bool = True, seeds: Seeds | None = None
    ) -> None:
        """Open what is there, or with `writing` make it, `seeds` being the first examples to replay.

        Read where there is none, it is one in which nothing was learned. Without a `directory`, what is stored
        lives as long as this object. Raises `StateError` for what is damaged or of another bundle, `StorageError`.
        """
        self.directory, self.manifest = directory, manifest
        self._db = self.database = Database(directory, writing)
        self._weights = VersionWeights(directory and directory / VERSIONS, manifest)
        self._last = 0, Weights({}, manifest.classes)  # the version that was last read or adopted
        self.names = Names(self._db, manifest, directory)
        self.counted = Counted(self._db, manifest) if manifest.counted else None
        try:
            if self._db.empty:
                self._set_up(seeds)
            own, of = manifest.files[WEIGHTS].sha256, self._value("weights")
            if of != own:
                raise StateError(
                    f"{directory}: learned on another bundle, of weights {str(of)[:12]} and not {own[:12]}; "
                    "name another --state, or 'ffruntime reset' it"
                )
            if writing:
                with self._db.errors():
                    self._weights.make_folder()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the database; what was acknowledged is durable without that."""
        self._db.close()

    # --- examples

    def add(
        self, images: np.ndarray, names: Sequence[str], features: np.ndarray | None = None, units: int = 0
    ) -> list[int]:
        """Store images uint8 (N, C, H, W) with the names of their classes, durably, all or none; returns their ids.

        `features`: the examples of class statistics that they are, int8 (N, d), which count from now on; every
        fifth of a class then judges updates. `units`: which version taught the units that made them, 0 for the
        bundle's. New classes take spare patterns. Raises `UsageError` for images of another shape or more
        classes than patterns, `StorageError` where they cannot be stored.
        """
        require_images(images, self.manifest.network.image.shape)
        names = require_names(names, len(images))
        counted = self.counted if features is not None else None
        with self._db.transaction(rows=True) as db:
            labels, before = self.names.labels(db, names), self.count()
            rows = [row.tobytes() for row in features] if features is not None else [None] * len(images)
            statuses = counted.statuses(labels, self.current_version()) if counted else [PENDING] * len(images)
            ids = [
                int(db.execute(INSERT, (label, image.tobytes(), row, units, status, utc())).lastrowid or 0)
                for label, image, row, status in zip(labels, images, rows, statuses, strict=True)
            ]
            change = counted.changed(db) if counted else 0
            self._db.remember("count", before + len(ids))
        if counted and features is not None:
            counted.go_on(change, features, np.array(labels), units)
        return ids

    def ids(self, *statuses: str) -> dict[int, list[int]]:
        """Stored examples of these statuses: label -> ids, in the order in which they came."""
        found: dict[int, list[int]] = {}
        marks = ", ".join("?" * len(statuses))
        query = f"SELECT id, label FROM examples WHERE status IN ({marks}) ORDER BY id"
        for id, label in self._db.all(query, statuses):
            found.setdefault(label, []).append(id)
        return found

    def count(self) -> int:
        """How many examples are stored."""
        return self._db.remembered("count", lambda: int(self._db.all("SELECT COUNT(*) FROM examples")[0][0]))

    def pending(self, most: int = -1) -> list[int]:
        """Ids of examples that no update has learned from yet, oldest first; all, or at most so many."""
        query = "SELECT id FROM examples WHERE status = ? ORDER BY id LIMIT ?"
        return [id for (id,) in self._db.all(query, (PENDING, most))]

    def read(self, ids: Sequence[int]) -> Examples:
        """Stored examples, in the order of `ids`, which may repeat."""
        shape = self.manifest.network.image.shape
        rows: dict[int, tuple[int, bytes]] = {}
        for start in range(0, len(ids), 500):  # SQLite binds no more than 999 in old versions
            some = list(dict.fromkeys(ids[start : start + 500]))
            query = (
                f"SELECT id, label, image FROM examples WHERE id IN ({', '.join('?' * len(some))}) "
                "AND length(image) = ? AND label >= 0 AND label < ?"
            )
            for id, label, image in self._db.all(query, [*some, math.prod(shape), len(self.classes())]):
                rows[id] = (label, image)
        if missing := set(ids) - rows.keys():
            raise self._db.damaged(f"example {min(missing)} is missing, of another size or of no class")
        images = np.empty((len(ids), *shape), np.uint8)
        for index, id in enumerate(ids):
            images[index] = np.frombuffer(rows[id][1], np.uint8).reshape(shape)
        return Examples(images, np.array([rows[id][0] for id in ids], np.int64))

    def keep(self, examples: Sequence[int], evicted: Sequence[int]) -> None:
        """Pending examples were learned from before there is a version of it; `evicted` leave the store."""
        with self._db.transaction() as db:
            mark(db, examples, LEARNED, next_number(db))
            self._evict(db, evicted, self.current_version())
        self._db.shrink()

    def forget(self, examples: Sequence[int] = (), label: int | None = None) -> Forgotten:
        """Take back examples, or all of a class (`forgetting.py`), and all that was learned since them."""
        with self._db.transaction() as db:
            found = forget_examples(db, self.counted, examples, label)
            if label is not None:
                found = with_elsewhere(found, label, self.manifest, self.history(), self._read)
                found = released(db, found, label, self.manifest, self.names, self.counted)
            if found.first is not None:
                elsewhere = self.counted.elsewhere(self.current_version()) if self.counted else []
                self._drop_versions(db, found.first)
                if self.counted:
                    self.counted.keep(db, elsewhere, self.current_version())
        self._last = 0, Weights({}, self.manifest.classes)
        self.sweep()
        self._db.erase()
        return found

    def retry(self) -> int:
        """Make the examples of refused updates pending again; returns how many."""
        with self._db.transaction() as db:
            return db.execute("UPDATE examples SET status = ? WHERE status = ?", (PENDING, REFUSED)).rowcount

    def seen(self) -> dict[int, int]:
        """label -> how many examples of it were ever learned from, those evicted since included."""
        query = """SELECT label, COUNT(*) FROM (SELECT label, status FROM examples
            UNION ALL SELECT label, status FROM evictions) WHERE status IN (?, ?) GROUP BY label"""
        return dict(self._db.all(query, (BUNDLES, LEARNED)))

    # --- classes and settings

    def classes(self) -> tuple[str, ...]:
        """The bundle's classes, then those that took a spare pattern here."""
        return self.names.all()

    @property
    def identity(self) -> str:
        """Drawn at random when the state was begun."""
        return str(self._value("identity"))

    def origins(self, version: int) -> tuple[str, ...]:
        """Identities of the states whose examples count, where a version does."""
        return tuple(sorted({self.identity, *(self.counted.origins(version) if self.counted else ())}))

    def setting(self, name: str) -> float | None:
        """A figure that the state remembers: `replay_bytes`, `shipped` (accuracy on held-back examples)."""
        value = self._value(name)
        if value is not None and not isinstance(value, (int, float)):
            raise self._db.damaged(f"'{name}' is no number")
        return value

    def set(self, name: str, value: float) -> None:
        """Remember a figure."""
        with self._db.transaction() as db:
            db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))

    # --- versions

    def current(self) -> Current:
        """The version that counts now, with its weights. Raises `StateError` where they are damaged.

        They are read and checked once, however often they are asked for; those that were adopted here, not at all.
        """
        for _ in range(5):
            number, row = self._current_row()
            updates, examples = (row.updates, row.learned) if row else (0, 0)
            try:
                last, made = self._last
                if last != number:
                    made = self._read(number)
                    self._last = number, made
                classes = self.classes()
                unsure = {name for name in classes if name in made.undertrained or name not in made.classes}
                counted, later = self.counted.read(number) if self.counted else (None, {})
                alone = self.counted is not None and self.counted.units(number) > 0
                weights = Weights(made.tensors, classes, frozenset(unsure), counted, alone, later)
                return Current(number, weights, updates, examples)
            except (StateError, UsageError):
                if self.current_version() == number:
                    raise  # else another process has gone on meanwhile
        raise StateError(f"{self.directory}: versions change faster than they can be read; try again")

    def current_version(self) -> int:
        return self._current_row()[0]

    def weights(self, number: int) -> dict[str, np.ndarray]:
        """The tensors of a version that differ from the bundle's; of version 0, none.

        Raises `UsageError` where they are not kept, `StateError` where they are damaged.
        """
        return self._read(number).tensors

    def history(self) -> list[Version]:
        """All versions, oldest first."""
        return [self._version(row) for row in self._db.all("SELECT * FROM versions ORDER BY id")]

    def version_file(self, number: int) -> Path:
        return self._weights.file(number)

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
        told: Told | Anew | None = None,
    ) -> int:
        """Make a version of these weights and make it current; its number. Older ones' weights make room.

        `tensors`: all that differ from the bundle's; they must not change any more. `examples` were learned from,
        `evicted` leave the store. `learned`: what a state from elsewhere says of itself, and `told` its class
        statistics, or those that begin anew. Raises `StateError` where another process has changed the version
        meanwhile, `StorageError`, `UsageError` where a pattern means one class here and another there; then nothing
        is changed.
        """
        with self._db.transaction() as db:
            now, row = self._current_row()
            if now != parent:
                raise StateError(f"{self.directory}: another process has changed the version meanwhile; try again")
            self.sweep()
            if learned:
                self.names.take(db, learned.classes)
            updates = learned.updates if learned else (row.updates if row else 0) + 1
            total = learned.examples if learned else (row.learned if row else 0) + len(examples)
            number = next_number(db)
            mark(db, examples, LEARNED, number)
            undertrained = self._hardly_seen(total).union(learned.undertrained if learned else ())
            weights = Weights(dict(tensors), learned.classes if learned else self.classes(), undertrained)
            digest = self._weights.write(number, weights, updates, total)
            parent, kept = self.counted.before(parent, told) if self.counted else (parent, [])
            row = Version(number, parent, kind, True, len(examples), before, after, utc(), updates, total, digest)
            record(db, row)
            if told and self.counted:
                self.counted.take(db, told, number, kept)
            self._evict(db, evicted, number)
            db.execute("UPDATE settings SET value = ? WHERE name = 'current'", (number,))
            forget(db, number, parent)
        self._last = number, weights
        self.sweep()
        if evicted:
            self._db.shrink()
        return number

    def refuse(
        self,
        parent: int,
        kind: str,
        examples: Sequence[int],
        before: float | None,
        after: float | None,
        evicted: Sequence[int] = (),
    ) -> int:
        """Record an update that was not adopted; the version's number."""
        with self._db.transaction() as db:
            row = self._row(parent)
            updates, total = (row.updates, row.learned) if row else (0, 0)
            number = next_number(db)
            row = Version(number, parent, kind, False, len(examples), before, after, utc(), updates, total, None)
            record(db, row)
            mark(db, examples, REFUSED)
            self._evict(db, evicted, number)
        return number

    def rollback(self, to: int | None = None) -> int:
        """Make an earlier version current, by default the parent of the current one; its number.

        Examples stay. Raises `UsageError` where that version's weights are not kept, `StateError` where they are
        damaged. Version 0, the bundle's, is always there.
        """
        with self._db.transaction() as db:
            if to is None:
                _, row = self._current_row()
                if row is None:
                    raise UsageError("the bundle's own weights are current: there is nothing to go back from")
                to = row.parent
            self.weights(to)
            db.execute("INSERT OR REPLACE INTO settings VALUES ('current', ?)", (to,))
        return to

    def sweep(self) -> None:
        """Remove the weights' files that no version has: what a crash left, and what is no longer kept."""
        self._weights.keep_only({version.id for version in self.history() if version.kept})

    # --- inside

    def _drop_versions(self, db: sqlite3.Connection, first: int) -> None:
        """Versions from that number on lose their weights; if one of them counted, then now what it came from."""
        number, row = self._current_row()
        db.execute("UPDATE versions SET sha256 = NULL WHERE id >= ?", (first,))
        if number >= first:
            db.execute("UPDATE settings SET value = ? WHERE name = 'current'", (origin(row, first, self._row),))

    def _evict(self, db: sqlite3.Connection, examples: Sequence[int], version: int) -> None:
        """Examples leave the store, and class statistics keep them."""
        if self.counted and examples:
            self.counted.absorb(db, examples)
        evict(db, examples, version, utc())

    def _read(self, number: int) -> Weights:
        """What a version was made with, checked."""
        if number == 0:
            return Weights({}, self.manifest.classes)
        kept = {version.id: version for version in self.history() if version.kept}
        if number not in kept:
            numbers = ", ".join(map(str, (0, *kept)))
            raise UsageError(f"version {number}: its weights are not kept; those of {numbers} are")
        return self._weights.read(number, kept[number].sha256)

    def _set_up(self, seeds: Seeds | None) -> None:
        """Tables and the first examples, in one transaction."""
        first_examples = seeds() if seeds else Examples.none(self.manifest.network.image.shape)
        first = {"weights": self.manifest.files[WEIGHTS].sha256, "current": 0, "replay_bytes": REPLAY_BYTES}
        first["identity"] = secrets.token_hex(8)
        with self._db.transaction() as db:
            if not self._db.empty:
                return  # another process was faster
            if self._weights.any():
                raise self._db.damaged("versions are there, but no database")
            create(db)
            db.executemany("INSERT INTO settings VALUES (?, ?)", list(first.items()))
            for image, label in zip(first_examples.pixels, first_examples.labels, strict=True):
                db.execute(INSERT, (int(label), image.tobytes(), None, 0, BUNDLES, utc()))

    def _hardly_seen(self, examples: int) -> frozenset[str]:
        """Learned classes that weights which learned from so many examples in all can have seen but few of."""
        seen, first = self.seen(), len(self.manifest.classes)
        new = enumerate(self.classes()[first:], first)
        return frozenset(name for label, name in new if min(seen.get(label, 0), examples) < WELL_KNOWN)

    def _value(self, setting: str) -> object:
        query = "SELECT value FROM settings WHERE name = ?"
        rows = self._db.remembered(f"setting {setting}", lambda: self._db.all(query, (setting,)))
        return rows[0][0] if rows else None

    def _current_row(self) -> tuple[int, Version | None]:
        number = self._value("current")
        row = self._row(number) if isinstance(number, int) and number else None
        if not isinstance(number, int) or (number and not (row and row.kept)):
            raise self._db.damaged("it does not say which version is current; 'ffruntime rollback 0', or")
        return number, row

    def _row(self, number: int) -> Version | None:
        query = "SELECT * FROM versions WHERE id = ?"
        rows = self._db.remembered(f"version {number}", lambda: self._db.all(query, (number,)))
        return self._version(rows[0]) if rows else None

    def _version(self, row: tuple) -> Version:
        fields = dict(zip(Version.__struct_fields__, row, strict=True))
        try:
            return msgspec.convert({**fields, "adopted": bool(fields["adopted"])}, Version)
        except msgspec.ValidationError as error:
            raise self._db.damaged(f"a version's row: {error}") from error
