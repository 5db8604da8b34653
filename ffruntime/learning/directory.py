"""A state directory from outside: watched while others learn there, used by one learner at a time, deleted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ..core.errors import FFError, StateError, StorageError
from .database import DATABASE, Database, ForeignDatabase
from .store import Store
from .versions import OURS, VERSIONS

if TYPE_CHECKING:
    from ..model import Model

LOCK = "learning.lock"

Stamp: TypeAlias = tuple[tuple[int, int, int] | None, ...]


def watching(model: Model, directory: Path, warn: Callable[[str], object]) -> Callable[[], Model]:
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
                    model = model.with_weights(found.weights)
                    version, classes = found.version, found.weights.classes
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


@contextlib.contextmanager
def alone(directory: Path | None) -> Iterator[None]:
    """While the block runs, no other process learns here; in memory none could.

    Raises `StateError` where one does, `StorageError` where that cannot be known.
    """
    if directory is None:
        yield
        return
    from filelock import FileLock, Timeout

    lock = FileLock(directory / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise StateError(f"{directory}: another process is learning; try again when it is done") from error
    except (OSError, NotImplementedError) as error:
        said = getattr(error, "strerror", None) or "the file system has no locks"
        raise StorageError(f"{directory / LOCK}: {said}") from error
    try:
        yield
    finally:
        lock.release()


def reset(directory: Path) -> None:
    """Delete all that was learned, damaged or of whatever bundle; other files stay.

    Raises `StateError` where another process is learning or the database is another program's, `StorageError`.
    """
    try:
        Database(directory, writing=False).close()
    except ForeignDatabase:
        raise
    except (StateError, StorageError):
        pass  # what is damaged can be deleted
    versions = directory / VERSIONS
    with alone(directory):
        try:
            for file in (directory / f"{DATABASE}{suffix}" for suffix in ("", "-wal", "-shm", "-journal")):
                file.unlink(missing_ok=True)  # the database first: without it, nothing else counts
            for file in versions.iterdir() if versions.is_dir() else ():
                if OURS.fullmatch(file.name):
                    file.unlink()
            (directory / LOCK).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{error.filename}: {error.strerror}") from error
    for folder in (versions, directory):
        with contextlib.suppress(OSError):  # where something else is in it
            folder.rmdir()
