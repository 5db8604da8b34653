"""A model that goes on with what another process learns: what `classify` uses while pictures keep coming."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from .core.errors import FFError
from .core.state import Weights
from .learning.database import DATABASE
from .learning.store import Store
from .model import Model

Stamp: TypeAlias = tuple[tuple[int, int, int] | None, ...]


def following(model: Model, directory: Path, warn: Callable[[str], object]) -> Callable[[], Model]:
    """A function that returns the model with what is learned in the state `directory` by then.

    Where nothing was written there since it was last called, it looks at two files' times and no more. What cannot
    be used is said to `warn`, and the model stays as it was.
    """
    before: Stamp | None = None
    version, classes = -1, model.classes

    def now() -> Model:
        nonlocal model, before, version, classes
        stamp = _stamp(directory)
        if stamp == before:
            return model
        before = stamp
        try:
            with contextlib.closing(Store(directory, model.manifest, writing=False)) as store:
                if (store.current_version(), store.classes()) != (version, classes):
                    found = store.current()
                    model = model.with_weights(Weights(found.tensors, found.classes, found.doubtful))
                    version, classes = found.version, found.classes
        except FFError as error:
            warn(f"{error}; what was learned before counts")
        return model

    return now


def _stamp(directory: Path) -> Stamp:
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
