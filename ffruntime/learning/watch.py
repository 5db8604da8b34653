"""A model that goes on with what another process learns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

from ..core.errors import FFError
from ..model import Model
from .database import DATABASE
from .store import Store

Stamp: TypeAlias = tuple[tuple[int, int, int] | None, ...]


def watching(model: Model, directory: Path, warn: Callable[[str], object]) -> Callable[[], Model]:
    """A function that returns the model with what is learned in the state `directory` by then.

    Where nothing was written there since it was last called, it looks at two files' times and no more. What cannot
    be used is said to `warn`, and the model stays as it was.
    """
    before: Stamp | None = None
    version, classes, told = -1, model.classes, 0

    def now() -> Model:
        nonlocal model, before, version, classes, told
        changed = stamp(directory)
        if changed == before:
            return model
        before = changed
        try:
            with closing(Store(directory, model.manifest, writing=False)) as store:
                counted = store.counted.changes() if store.counted else 0
                if (store.current_version(), store.classes(), counted) != (version, classes, told):
                    found = store.current()
                    model = model.with_weights(found.weights)
                    version, classes, told = found.version, found.weights.classes, counted
        except FFError as error:
            warn(f"{error}; what was learned before counts")
        return model

    return now


def stamp(directory: Path) -> Stamp:
    """What changes when something is written to a state: of the database, and of its log unless that is empty."""
    stamps: list[tuple[int, int, int] | None] = []
    for file in (directory / DATABASE, directory / f"{DATABASE}-wal"):
        try:
            status = file.stat()
        except OSError:
            stamps.append(None)
        else:
            stamps.append((status.st_ino, status.st_size, status.st_mtime_ns) if status.st_size else None)
    return tuple(stamps)
