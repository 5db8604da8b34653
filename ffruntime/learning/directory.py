"""A state directory from outside: used by one learner at a time, deleted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ..core.errors import StateError, StorageError
from .database import DATABASE, Database, ForeignDatabase
from .versions import OURS, VERSIONS

LOCK = "learning.lock"


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
