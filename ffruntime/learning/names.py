"""The names of a state's classes: the bundle's, then those that a device has learned, each with its label."""

from __future__ import annotations

import difflib
import functools
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..core.errors import UsageError, listed, shortened
from ..core.folders import class_name
from ..core.manifest import LONGEST_NAME, Manifest
from .database import Database

FREE = "free:"  # settings: with a label behind it, one that was given back
ALIKE = 0.8  # of difflib's ratio: names that are as alike may be one, mistyped


def require_names(names: Iterable[object], count: int) -> list[str]:
    """Names of classes as they are stored, one for each of so many images. Raises `UsageError`."""
    if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
        raise UsageError(f"names of classes: must be a list with one for each image, not {names!r}")
    found = list(names)
    for name in found:
        if not isinstance(name, str):
            raise UsageError(f"names of classes: must be text, not {name!r}")
    if len(found) != count:
        raise UsageError(f"examples: {count} images with {len(found)} names of classes: one for each")
    return [class_name(str(name)) for name in found]


@functools.lru_cache(maxsize=4)
def by_name(classes: tuple[str, ...]) -> Mapping[str, int]:
    """Labels by the names of classes as `require_names` gives them."""
    return {class_name(name): label for label, name in enumerate(classes)}


def near_miss(name: str, classes: Sequence[str]) -> str | None:
    """The class that was probably meant by a name which is none: the same but for capitals and signs, or nearly so.
    Numbers that differ are meant to."""

    def letters(text: str) -> str:
        return re.sub(r"[\W_]+", "", text.casefold())

    known = {letters(other): other for other in classes if re.findall(r"\d+", other) == re.findall(r"\d+", name)}
    near = difflib.get_close_matches(letters(name), known, n=1, cutoff=ALIKE)
    return known[near[0]] if near and near[0] else None


class Names:
    """The classes of a state's database."""

    def __init__(self, database: Database, manifest: Manifest, directory: Path | None) -> None:
        self._db, self._manifest, self._directory = database, manifest, directory

    def all(self) -> tuple[str, ...]:
        """The bundle's classes, then those that took a spare pattern here."""
        return self._db.remembered("classes", self._read)

    def _read(self) -> tuple[str, ...]:
        rows, first = self._db.all("SELECT label, name FROM classes ORDER BY label"), self._manifest.classes
        names = (*first, *(name for _, name in rows))
        labels = [label for label, _ in rows]
        whole = len(set(names)) == len(names) and all(isinstance(name, str) for name in names)
        if not whole or labels != list(range(len(first), len(names))):
            raise self._db.damaged("its classes do not go on where the bundle's end")
        if len(names) > self._manifest.network.label.patterns:
            raise self._db.damaged("it has more classes than the bundle has label patterns")
        return names

    def labels(self, db: sqlite3.Connection, names: Sequence[str]) -> list[int]:
        """The label of each class; a new class takes a pattern that was freed, or the next spare one."""
        names_here = self.all()
        known, free = dict(by_name(names_here)), self._free(len(names_here))
        if not free and known.keys() >= set(names):
            return [known[name] for name in names]
        self._db.writes_more()
        patterns = self._manifest.network.label.patterns
        for name in names:
            label = known.get(name)
            if label is not None:
                if label in free:
                    self._taken(db, label)
                    free.remove(label)
                continue
            if not name or not name.isprintable() or len(name) > LONGEST_NAME:
                raise UsageError(f"{shortened(name)!r} is no name for a class")
            if free:
                label = free.pop(0)
                self._taken(db, label)
                db.execute("UPDATE classes SET name = ? WHERE label = ?", (name, label))
                known = {other: place for other, place in known.items() if place != label}
            elif len(known) == patterns:
                raise UsageError(
                    f"'{name}' would be class number {patterns + 1}, but the bundle has {patterns} label patterns; "
                    f"known: {listed(list(known))}"
                )
            else:
                label = len(known)
                db.execute("INSERT INTO classes VALUES (?, ?)", (label, name))
            known[name] = label
        return [known[name] for name in names]

    def spare(self) -> int:
        """How many more classes there is room for."""
        known = len(self.all())
        return self._manifest.network.label.patterns - known + len(self._free(known))

    def release(self, db: sqlite3.Connection, label: int) -> int:
        """A class of the device's own, of which nothing is left, gives its pattern back, in a transaction.

        Returns how many classes there are then. One that others follow keeps its name until a new class comes.
        """
        known, first = len(self.all()), len(self._manifest.classes)
        free = {*self._free(known), label}
        db.execute("INSERT OR REPLACE INTO settings VALUES (?, 1)", (f"{FREE}{label}",))
        while known > first and known - 1 in free:
            known -= 1
            self._taken(db, known)
            db.execute("DELETE FROM classes WHERE label = ?", (known,))
        return known

    def _free(self, known: int) -> list[int]:
        """Labels of the `known` ones that were given back, below others."""
        query = "SELECT name FROM settings WHERE name LIKE ?"
        rows = self._db.remembered("free", lambda: self._db.all(query, (f"{FREE}%",)))
        found = [name.removeprefix(FREE) for (name,) in rows if isinstance(name, str)]
        own = range(len(self._manifest.classes), known)
        return sorted(int(label) for label in found if label.isdecimal() and int(label) in own)

    def _taken(self, db: sqlite3.Connection, label: int) -> None:
        db.execute("DELETE FROM settings WHERE name = ?", (f"{FREE}{label}",))

    def take(self, db: sqlite3.Connection, classes: Sequence[str]) -> None:
        """Know all of `classes`, which begin with those known here, or are the beginning of them."""
        known = self.all()
        shorter = min(len(known), len(classes))
        if tuple(classes[:shorter]) != known[:shorter]:
            raise UsageError(
                f"it knows the classes {listed(classes)}, and {self._directory} {listed(known)}: "
                "the same pattern would mean two things"
            )
        self.labels(db, classes)
