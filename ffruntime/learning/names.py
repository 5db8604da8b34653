"""The names of a state's classes: the bundle's, then those that a device has learned, each with its label."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import UsageError
from ..core.manifest import LONGEST_NAME, Manifest
from .database import Database


class Names:
    """The classes of a state's database."""

    def __init__(self, database: Database, manifest: Manifest, directory: Path | None) -> None:
        self._db, self._manifest, self._directory = database, manifest, directory

    def all(self) -> tuple[str, ...]:
        """The bundle's classes, then those that took a spare pattern here."""
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
        """The label of each class; new classes take the next spare pattern."""
        known = {name: label for label, name in enumerate(self.all())}
        patterns = self._manifest.network.label.patterns
        for name in names:
            if name in known:
                continue
            if not name or not name.isprintable() or len(name) > LONGEST_NAME:
                raise UsageError(f"{name!r} is no name for a class")
            if len(known) == patterns:
                raise UsageError(
                    f"'{name}' would be class number {patterns + 1}, but the bundle has {patterns} label patterns; "
                    f"known: {', '.join(known)}"
                )
            db.execute("INSERT INTO classes VALUES (?, ?)", (len(known), name))
            known[name] = len(known)
        return [known[name] for name in names]

    def take(self, db: sqlite3.Connection, classes: Sequence[str]) -> None:
        """Know all of `classes`, which begin with those known here, or are the beginning of them."""
        known = self.all()
        shorter = min(len(known), len(classes))
        if tuple(classes[:shorter]) != known[:shorter]:
            raise UsageError(
                f"it knows the classes {', '.join(classes)}, and {self._directory} {', '.join(known)}: "
                "the same pattern would mean two things"
            )
        self.labels(db, classes)
