"""Class statistics of what a device was shown, durable: the features of every stored example, in its row, a
snapshot of the examples that are no longer stored, and what states from elsewhere have counted.

Statistics are all of these together. A row is written with its example, so that what is acknowledged is counted;
the snapshot is written where examples leave the store, in the same transaction. Those from elsewhere count while a
version does that they came with, or that was made from it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
from msgspec import Struct

from ..core.errors import BundleError
from ..core.learning import EVERY
from ..core.manifest import WEIGHTS, Manifest
from ..core.statistics import Origin, Statistics, added, decode, encode, with_classes, with_examples, without_class
from .database import Database
from .tables import BUNDLES, JUDGING, PENDING
from .versions import NORMALISED

# Settings: the snapshot; by the hash of a state from elsewhere its statistics, and whose examples are in them; with
# a version and that hash, that they came with the version.
SNAPSHOT, OF, FROM, IN = "statistics", "statistics_of_", "statistics_from_", "statistics_in_"
BRANCH = "WITH RECURSIVE branch (id) AS (VALUES (?) UNION SELECT parent FROM versions JOIN branch USING (id))"
# The hashes that count in a version.
ELSEWHERE = f"""SELECT substr(name, -64) FROM settings
    WHERE name >= '{IN}' AND name < '{IN}~' AND value IN (SELECT id FROM branch)"""
# What is counted, in one statement and so of one moment: the snapshot, those from elsewhere, and the rows.
COUNTED = f"""{BRANCH} SELECT -1, value, 0 FROM settings
    WHERE name = ? OR (? AND name IN (SELECT '{OF}' || hash FROM ({ELSEWHERE.replace("64)", "64) AS hash")})))
    UNION ALL SELECT id, features, label FROM examples WHERE features IS NOT NULL AND units = ?"""
# The newest version of a branch that may have come with other units, and how.
UNITS = f"""{BRANCH} SELECT id, kind FROM versions JOIN branch USING (id)
    WHERE kind IN ('applied', 'stream', 'units', '{NORMALISED}') ORDER BY id DESC LIMIT 1"""
SNAPSHOTS = f"""SELECT name FROM settings WHERE name = '{SNAPSHOT}'
    OR (name >= '{SNAPSHOT}@' AND name < '{SNAPSHOT}@~') OR (name >= '{OF}' AND name < '{OF}~')"""
AT_ONCE = 512  # rows whose features are added up together
NEWEST = 256  # examples of a class that came later that its thresholds are of: enough for a rate of 1 %
SET = "INSERT OR REPLACE INTO settings VALUES (?, ?)"
CHANGES = "SELECT value FROM settings WHERE name = 'statistics_changes'"  # how often they were changed


def _snapshot(units: int) -> str:
    """The setting that is the snapshot by the units that a version taught, or the bundle's."""
    return f"{SNAPSHOT}@{units}" if units else SNAPSHOT


class Told(Struct, frozen=True):
    """Class statistics of a state from elsewhere."""

    file: str  # the hash of its file
    statistics: Statistics
    origins: tuple[str, ...]  # identities of the states whose examples they are of


class Anew(Struct, frozen=True):
    """What is stored, as other units see it."""

    ids: tuple[int, ...]
    examples: np.ndarray  # int8 (N, d)
    statistics: Statistics


class Counted:
    """The class statistics in a state's database. For a bundle whose manifest says how they are made."""

    def __init__(self, database: Database, manifest: Manifest) -> None:
        assert manifest.counted
        self._db, self._manifest, self._how = database, manifest, manifest.counted
        # Read or made last: after which change, in a version; with them the newest examples of later classes.
        self._last: tuple[int, int, Statistics, dict[int, np.ndarray]] | None = None
        self._grown: tuple[Statistics, Statistics] | None = None  # those from before the last rows, and with them
        self._units = {0: 0}  # by version

    def units(self, version: int) -> int:
        """Which version taught the units that class statistics are of, where this one counts; 0: the bundle's."""
        if version not in self._units:
            found = self._db.all(UNITS, (version,))
            self._units[version] = found[0][0] if found and found[0][1] in ("units", NORMALISED) else 0
        return self._units[version]

    def statistics(self, version: int) -> Statistics:
        """All that the device was shown, where this version counts. Raises `StateError` where it is damaged."""
        return self.read(version)[0]

    def read(self, version: int) -> tuple[Statistics, dict[int, np.ndarray]]:
        """The same, and by their labels the newest `NEWEST` stored examples of each class that came later than
        training, int8 (n, d), in their order."""
        changes = self.changes()
        if self._last and self._last[:2] == (changes, version):
            return self._last[2:]
        self._last = changes, version, *self._added_up(version, self.units(version) == 0)
        return self._last[2:]

    def own(self, version: int) -> Statistics:
        """The same without what states from elsewhere have counted."""
        return self._added_up(version, False)[0]

    def _added_up(self, version: int, elsewhere: bool) -> tuple[Statistics, dict[int, np.ndarray]]:
        found, labels, rows = self._nothing(), list[int](), list[bytes]()
        later: dict[int, list[tuple[int, bytes]]] = {}
        units = self.units(version)
        with closing(self._db.each(COUNTED, (version, _snapshot(units), elsewhere, units))) as all_of_them:
            for id, value, label in all_of_them:
                if id < 0:
                    found = added(found, self._decoded(value))
                    continue
                rows.append(value)
                labels.append(label)
                if label >= self._how.together:
                    later.setdefault(label, []).append((id, value))
                if len(rows) == AT_ONCE:
                    found, labels, rows = added(found, self._of(rows, labels)), [], []
        newest = {label: [row for _, row in sorted(some)[-NEWEST:]] for label, some in later.items()}
        found = added(found, self._of(rows, labels))
        return found, {label: self._examples(some) for label, some in newest.items()}

    def go_on(self, change: int, x: np.ndarray, labels: np.ndarray, units: int) -> None:
        """A transaction that was this change has added rows with these features, and no more: what was read before
        it goes on with them."""
        if self._last and self._last[0] == change - 1 and len(x) and self.units(self._last[1]) == units:
            _, version, before, later = self._last
            after = with_examples(before, x, labels)
            more = {label: x[labels == label] for label in set(labels.tolist()) if label >= self._how.together}
            new = {label: np.concatenate([later.get(label, x[:0]), some]) for label, some in more.items()}
            newest = later | {label: some[-NEWEST:] for label, some in new.items()}
            self._last, self._grown = (change, version, after, newest), (before, after)

    def grew(self, before: Statistics, after: Statistics) -> bool:
        """Whether these are those from before with the rows that were added last, and nothing else."""
        grown = self._grown
        return grown is not None and grown[0] is before and grown[1] is after

    def changes(self) -> int:
        """How often statistics were changed, by whichever process."""
        return self._db.remembered("changes", self._changes)

    def _changes(self) -> int:
        ((number,),) = self._db.all(CHANGES) or [(0,)]
        if not isinstance(number, int):
            raise self._db.damaged("it does not say how often class statistics were changed")
        return number

    def changed(self, db: sqlite3.Connection) -> int:
        """A transaction changes them, by rows or by the snapshot: the number of the change."""
        number = self.changes() + 1
        db.execute(SET, ("statistics_changes", number))
        self._db.remember("changes", number)
        return number

    def statuses(self, labels: Sequence[int], version: int) -> list[str]:
        """Of examples that are about to be stored, by their labels: every fifth one of a class judges updates."""
        found, counts = list[str](), dict(enumerate(self.statistics(version).counts.tolist()))
        for label in labels:
            counts[label] = counts.get(label, 0) + 1
            found.append(PENDING if counts[label] % EVERY else JUDGING)
        return found

    def absorb(self, db: sqlite3.Connection, examples: Sequence[int]) -> None:
        """Examples are about to be evicted, in a transaction: they go on to count, in their units' snapshot."""
        query = "SELECT units, features, label FROM examples WHERE id = ? AND status != ? AND features NOT NULL"
        rows = [row for id in examples for row in db.execute(query, (id, PENDING))]
        for units in sorted({units for units, *_ in rows}):
            features, labels = zip(*((x, label) for of_units, x, label in rows if of_units == units), strict=True)
            self.write(db, added(self.snapshot(units), self._of(features, labels)), _snapshot(units))

    def snapshot(self, units: int = 0) -> Statistics:
        """Of the examples that are no longer stored, by these units."""
        return self._setting(_snapshot(units))

    def _setting(self, name: str) -> Statistics:
        """A setting that is statistics; none where it is not there."""
        found = self._db.all("SELECT value FROM settings WHERE name = ?", (name,))
        return self._decoded(found[0][0]) if found else self._nothing()

    def _snapshots(self) -> Iterator[tuple[str, Statistics]]:
        """All settings that are statistics, one after the other: the snapshots, and those from elsewhere."""
        for (name,) in self._db.all(SNAPSHOTS):
            yield name, self._setting(name)

    def write(self, db: sqlite3.Connection, some: Statistics, name: str = SNAPSHOT) -> None:
        """Replace the snapshot, or another setting that is statistics, in a transaction."""
        db.execute(SET, (name, encode(some, self._origin())))
        self.changed(db)

    def without_class(self, db: sqlite3.Connection, label: int) -> int:
        """Take a class's count, its mean and what moment it has of its own out of the snapshot and of all from
        elsewhere, in a transaction; how many examples they were of."""
        gone = 0
        for name, some in self._snapshots():
            if label < some.classes and some.counts[label]:
                gone += int(some.counts[label])
                self.write(db, without_class(some, label), name)
        return gone

    def shorten(self, db: sqlite3.Connection, classes: int) -> None:
        """There are so many classes, in a transaction: those that are gone have nothing in any statistics."""
        for name, some in self._snapshots():
            if some.classes > classes:
                self.write(db, with_classes(some, classes), name)

    # --- from elsewhere

    def take(self, db: sqlite3.Connection, told: Told | Anew, version: int, kept: Sequence[str] = ()) -> None:
        """Statistics come with a version, in a transaction: they begin anew, or are from elsewhere; those of a file
        of that hash count once, however often it is applied. Those of the files `kept` go on to count."""
        self.keep(db, kept, version)
        if isinstance(told, Anew):
            self.refill(db, told.ids, told.examples, version)
            return
        self.write(db, told.statistics, f"{OF}{told.file}")
        db.execute(SET, (f"{FROM}{told.file}", " ".join(told.origins)))
        self._tie(db, told.file, version)

    def elsewhere(self, version: int) -> list[str]:
        """Hashes of the states from elsewhere that count in a version."""
        return sorted({file for (file,) in self._db.all(f"{BRANCH} {ELSEWHERE}", (version,))})

    def keep(self, db: sqlite3.Connection, files: Sequence[str], version: int) -> None:
        """What counted goes on to count in a version, although that came before it; in a transaction."""
        for file in files:
            self._tie(db, file, version)

    def origins(self, version: int) -> set[str]:
        """Whose examples count in a version, beside the device's own: identities of states."""
        return {identity for file in self.elsewhere(version) for identity in self._origins_of(file)}

    def _origins_of(self, file: str) -> set[str]:
        rows = self._db.all("SELECT value FROM settings WHERE name = ?", (f"{FROM}{file}",))
        return {identity for (value,) in rows for identity in str(value).split()}

    def given_way(self, version: int, told: Told) -> set[str]:
        """Hashes of the states that count in a version and give way to another: examples of the same devices are in
        it, and of further ones at the most."""
        there = {file: self._origins_of(file) for file in self.elsewhere(version) if file != told.file}
        return {file for file, origins in there.items() if origins & {*told.origins}}

    def before(self, version: int, told: Told | Anew | None) -> tuple[int, list[str]]:
        """The newest version that this one was made from and in which nothing counts that gives way to a state from
        elsewhere, and what else counts in this one."""
        given = self.given_way(version, told) if isinstance(told, Told) else set()
        kept = [file for file in self.elsewhere(version) if file not in given]
        while version and given & {*self.elsewhere(version)}:
            ((parent,),) = self._db.all("SELECT parent FROM versions WHERE id = ?", (version,))
            version = parent if parent < version else 0
        return version, kept if given else []

    def overlaps(self, version: int, told: Told) -> bool:
        """Whether a state has examples that count in a version, beside others that it does not have."""
        given, always = self.given_way(version, told), set(self.elsewhere(0))
        return any(file in always or not self._origins_of(file) <= {*told.origins} for file in given)

    def _tie(self, db: sqlite3.Connection, file: str, version: int) -> None:
        db.execute(SET, (f"{IN}{version}_{file}", version))
        self.changed(db)

    # --- rows without features of the units that count

    def without(self, version: int) -> list[int]:
        """Ids of examples whose features of the units that count in a version are not stored: they were stored
        before the bundle had statistics, or while others counted. The bundle's own are counted by it."""
        query = "SELECT id FROM examples WHERE (features IS NULL OR units != ?) AND (status != ? OR ?) ORDER BY id"
        units = self.units(version)
        return [id for (id,) in self._db.all(query, (units, BUNDLES, units > 0))]

    def fill(self, examples: Sequence[int], x: np.ndarray, units: int) -> None:
        """Store the features of examples, int8 (N, d), by these units."""
        with self._db.transaction() as db:
            self.refill(db, examples, x, units)

    def refill(self, db: sqlite3.Connection, examples: Sequence[int], x: np.ndarray, units: int) -> None:
        """The same in a transaction."""
        db.executemany(
            "UPDATE examples SET features = ?, units = ? WHERE id = ?",
            [(row.tobytes(), units, id) for row, id in zip(x, examples, strict=True)],
        )
        self.changed(db)

    def _nothing(self) -> Statistics:
        return self._how.none(0)

    def _of(self, rows: Sequence[bytes], labels: Sequence[int]) -> Statistics:
        """Statistics of stored features. Raises `StateError` for some that are damaged."""
        patterns = self._manifest.network.label.patterns
        if any(len(row) != self._how.dimension for row in rows) or not all(
            0 <= label < patterns for label in labels
        ):
            raise self._db.damaged("an example's features are not those of the bundle's class statistics")
        x = self._examples(rows)
        return self._how.of(x, np.array(labels, np.int64), max(labels, default=-1) + 1)

    def _examples(self, rows: Sequence[bytes]) -> np.ndarray:
        return np.frombuffer(b"".join(rows), np.int8).reshape(len(rows), self._how.dimension)

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
        return self._how.origin(self._manifest.files[WEIGHTS].sha256)
