"""Class statistics of what a device was shown, durable: the features of every stored example, in its row, and a
snapshot of the examples that are no longer stored.

Statistics are the snapshot and the rows together. A row is written with its example, so that what is acknowledged
is counted; the snapshot is written where examples leave the store, in the same transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import numpy as np

from ..core.errors import BundleError
from ..core.manifest import WEIGHTS, Manifest
from ..core.statistics import FORMAT, Origin, Statistics, added, decode, encode, none, of, with_classes
from .database import BUNDLES, PENDING, Database

SNAPSHOT = "statistics"  # the setting that is the snapshot
# What is counted, in one statement and so of one moment: the snapshot, and the rows.
COUNTED = """SELECT -1, value, 0 FROM settings WHERE name = 'statistics'
    UNION ALL SELECT id, features, label FROM examples WHERE features IS NOT NULL"""
CHANGES = "SELECT value FROM settings WHERE name = 'statistics_changes'"  # how often they were changed
CHANGED = """INSERT INTO settings VALUES ('statistics_changes', 1)
    ON CONFLICT (name) DO UPDATE SET value = value + 1"""


def grew(before: Statistics, x: np.ndarray, labels: np.ndarray, after: Statistics) -> bool:
    """Whether statistics are those from before with examples int8 (N, d) of these labels (N,), by their sums."""
    if after.classes < before.classes or int(after.counts.sum()) != int(before.counts.sum()) + len(x):
        return False
    more = after.sums - with_classes(before, after.classes).sums
    np.subtract.at(more, labels, x)
    return not more.any()


class Counted:
    """The class statistics in a state's database. For a bundle whose manifest says how they are made."""

    def __init__(self, database: Database, manifest: Manifest) -> None:
        assert manifest.counted
        self._db, self._manifest, self._how = database, manifest, manifest.counted
        self._last: tuple[int, Statistics] | None = None  # what was read or made last, after which change

    def statistics(self) -> Statistics:
        """All that the device was shown. Raises `StateError` where it is damaged."""
        changes = self.changes()
        if self._last and self._last[0] == changes:
            return self._last[1]
        total, labels, rows = self._nothing(), list[int](), list[bytes]()
        for id, value, label in self._db.all(COUNTED):
            if id < 0:
                total = self._decoded(value)
            else:
                rows.append(value)
                labels.append(label)
        found = added(total, self._of(rows, labels))
        self._last = changes, found
        return found

    def go_on(self, change: int, x: np.ndarray, labels: np.ndarray) -> None:
        """A transaction that was this change has added rows with these features, and no more: what was read before
        it goes on with them."""
        if self._last and self._last[0] == change - 1 and len(x):
            self._last = change, added(self._last[1], of(x, labels, int(labels.max()) + 1))

    def changes(self) -> int:
        """How often statistics were changed, by whichever process."""
        ((number,),) = self._db.all(CHANGES) or [(0,)]
        if not isinstance(number, int):
            raise self._db.damaged("it does not say how often class statistics were changed")
        return number

    def changed(self, db: sqlite3.Connection) -> int:
        """A transaction changes them, by rows or by the snapshot: the number of the change."""
        db.execute(CHANGED)
        return self.changes()

    def absorb(self, db: sqlite3.Connection, examples: Sequence[int]) -> None:
        """Examples are about to be evicted, in a transaction: they go on to count, in the snapshot."""
        rows = [
            row
            for id in examples
            for row in db.execute(
                "SELECT features, label FROM examples WHERE id = ? AND status != ? AND features IS NOT NULL",
                (id, PENDING),
            )
        ]
        if rows:
            features, labels = zip(*rows, strict=True)
            self.write(db, added(self.snapshot(), self._of(features, labels)))

    def snapshot(self) -> Statistics:
        """Of the examples that are no longer stored."""
        found = self._db.all("SELECT value FROM settings WHERE name = ?", (SNAPSHOT,))
        return self._decoded(found[0][0]) if found else self._nothing()

    def write(self, db: sqlite3.Connection, snapshot: Statistics) -> None:
        """Replace the snapshot, in a transaction."""
        db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (SNAPSHOT, encode(snapshot, self._origin())))
        self.changed(db)

    def take(self, db: sqlite3.Connection, file: str, some: Statistics) -> None:
        """Statistics that another device has made, in a transaction: they count from now on, in the snapshot. Those
        of a file of that hash count once, however often it is applied."""
        name = f"{SNAPSHOT}_of_{file}"
        if not db.execute("SELECT 1 FROM settings WHERE name = ?", (name,)).fetchone():
            db.execute("INSERT INTO settings VALUES (?, 1)", (name,))
            self.write(db, added(self.snapshot(), some))

    def without(self) -> list[int]:
        """Ids of a device's examples whose features are not stored: from before the bundle had statistics."""
        query = "SELECT id FROM examples WHERE features IS NULL AND status != ? ORDER BY id"
        return [id for (id,) in self._db.all(query, (BUNDLES,))]

    def fill(self, examples: Sequence[int], x: np.ndarray) -> None:
        """Store the features of examples that have none, int8 (N, d)."""
        with self._db.transaction() as db:
            db.executemany(
                "UPDATE examples SET features = ? WHERE id = ? AND features IS NULL",
                [(row.tobytes(), id) for row, id in zip(x, examples, strict=True)],
            )
            self.changed(db)

    def _nothing(self) -> Statistics:
        return none(0, self._how.dimension)

    def _of(self, rows: Sequence[bytes], labels: Sequence[int]) -> Statistics:
        """Statistics of stored features. Raises `StateError` for some that are damaged."""
        patterns = self._manifest.network.label.patterns
        if any(len(row) != self._how.dimension for row in rows) or not all(
            0 <= label < patterns for label in labels
        ):
            raise self._db.damaged("an example's features are not those of the bundle's class statistics")
        x = np.frombuffer(b"".join(rows), np.int8).reshape(len(rows), self._how.dimension)
        return of(x, np.array(labels, np.int64), max(labels, default=-1) + 1)

    def _decoded(self, value: object) -> Statistics:
        try:
            found, origin = decode(bytes(value), "snapshot")  # type: ignore[call-overload]
        except (BundleError, TypeError, ValueError) as error:
            raise self._db.damaged(f"its class statistics: {error}") from error
        if origin != self._origin():
            raise self._db.damaged("its class statistics are of other units, or projected otherwise")
        return found

    def _origin(self) -> Origin:
        """A state is tied to all weights of a bundle, and so to those of its units."""
        return Origin(FORMAT, self._manifest.files[WEIGHTS].sha256, self._how.dimension, self._how.seed)
