"""Forgetting: examples are taken back, exactly while their features are stored."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct, structs

from ..core.errors import StateError, UsageError
from ..core.manifest import Manifest
from ..core.state import Weights
from .counted import Counted
from .names import Names
from .tables import BUNDLES
from .versions import Version

STORED = "SELECT id, first FROM examples WHERE status != ? AND"
EVICTED = "SELECT id, first FROM evictions WHERE status != ? AND"


class Forgotten(Struct, frozen=True):
    """What was taken back."""

    examples: tuple[int, ...]  # that were stored: they are gone, and class statistics are those without them
    evicted: int  # of the class, that were not stored any more: count and mean are gone from class statistics
    first: int | None  # version from which on weights may have learned from any of them, or the class elsewhere
    freed: bool = False  # whether the class has given its pattern back: the next new one takes it


def forget_examples(
    db: sqlite3.Connection, counted: Counted | None, examples: Sequence[int], label: int | None
) -> Forgotten:
    """Take back the examples with these ids or, where there is a `label`, all of that class, in a transaction.

    Rows go, with picture and features; of a class's examples that were evicted, the count and the mean go out of
    the snapshot, and how they were spread about that mean stays in a moment that classes share. Raises
    `UsageError`, with nothing changed, for an id that is not stored, or the bundle's.
    """
    if label is None:
        stored = [_stored(db, id) for id in examples]
        evicted: list[tuple[int, int | None]] = []
    else:
        stored = db.execute(f"{STORED} label = ? ORDER BY id", (BUNDLES, label)).fetchall()
        evicted = db.execute(f"{EVICTED} label = ?", (BUNDLES, label)).fetchall()
    db.executemany("DELETE FROM examples WHERE id = ?", [(id,) for id, _ in stored])
    if counted:
        counted.changed(db)
    gone = len(evicted)
    if counted and label is not None:
        gone = max(gone, counted.without_class(db, label))
    if label is not None:
        db.execute("DELETE FROM evictions WHERE status != ? AND label = ?", (BUNDLES, label))
    seen = [first for _, first in (*stored, *evicted) if first is not None]
    return Forgotten(tuple(id for id, _ in stored), gone, min(seen, default=None))


def with_elsewhere(
    found: Forgotten, label: int, manifest: Manifest, history: Iterable[Version], read: Callable[[int], Weights]
) -> Forgotten:
    """The same where states from elsewhere, which say no more than their classes, may have learned from a class,
    too. One of the bundle's of which nothing was taken back is left to them. `read`: the weights of a version."""
    if label < len(manifest.classes) and not (found.examples or found.evicted):
        return found
    for version in history:
        if version.kind == "applied" and version.adopted and (found.first is None or version.id < found.first):
            with contextlib.suppress(StateError, UsageError):  # not kept, or damaged: it may have
                if label >= len(read(version.id).classes):
                    continue
            return structs.replace(found, first=version.id)
    return found


def released(
    db: sqlite3.Connection, found: Forgotten, label: int, manifest: Manifest, names: Names, counted: Counted | None
) -> Forgotten:
    """The same where a class of the device's own, of which nothing is left, gives its pattern back."""
    if label < len(manifest.classes):
        return found
    known = names.release(db, label)
    if counted:
        counted.shorten(db, known)
    return structs.replace(found, freed=True)


def _stored(db: sqlite3.Connection, id: int) -> tuple[int, int | None]:
    """A stored example of the device: its id, and the first version that may have learned from it."""
    rows = db.execute(f"{STORED} id = ?", (BUNDLES, id)).fetchall()
    if rows:
        found: tuple[int, int | None] = rows[0]
        return found
    if db.execute("SELECT 1 FROM evictions WHERE id = ?", (id,)).fetchone():
        raise UsageError(
            f"example {id} was evicted: its picture is gone, and what it counts for cannot be told from others; "
            "--label takes back what its whole class counts for"
        )
    if db.execute("SELECT 1 FROM examples WHERE id = ?", (id,)).fetchone():
        raise UsageError(f"example {id} is one of the bundle's, which are not forgotten")
    raise UsageError(f"example {id}: there is none; 'ffruntime learn' says the ids of what it stores")
