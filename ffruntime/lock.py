"""Files that one process at a time has: who writes a bundle, who learns in a state; scratch folders."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .core.errors import FFError, StorageError

SCRATCH = "ffedge-scratch-"
YOUNG = 60.0  # seconds in which a scratch folder may not be locked yet


@contextlib.contextmanager
def held(file: Path, busy: FFError, what: str, remove: bool = False) -> Iterator[None]:
    """While the block runs, no other process has the lock in that file, which is made; in the end it may go.

    Raises `busy` where another one has it, `StorageError`, of `what`, where that cannot be known.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(file, timeout=0)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise busy from error
    except (OSError, NotImplementedError) as error:
        said = getattr(error, "strerror", None) or "the file system has no locks"
        raise StorageError(f"{what}: {said}") from error
    try:
        yield
    finally:
        if remove:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)  # who waits for it sees that it is gone
        lock.release()


@contextlib.contextmanager
def writing(bundle: Path) -> Iterator[None]:
    """While the block runs, no other process begins to write that bundle, or to train it where it is not there yet.

    The lock is a file in the bundle, or beside the place where it will be. Raises `StorageError` where another
    process has it, or where nothing can be written.
    """
    file = bundle / ".lock" if bundle.is_dir() else bundle.with_name(f".{bundle.name}.lock")
    busy = StorageError(f"{bundle}: another process is writing it; try again when it is done")
    with held(file, busy, f"{bundle}: cannot be written: {file}", remove=True):
        yield


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder elsewhere, for as long as the block runs. Those of processes that were killed go first.

    Raises `OSError` where it cannot be made.
    """
    _clear_abandoned()
    with tempfile.TemporaryDirectory(prefix=SCRATCH, ignore_cleanup_errors=True) as folder:
        lock = Path(folder) / ".lock"
        with held(lock, StorageError(f"{folder}: in use"), folder):
            yield Path(folder)


def _clear_abandoned() -> None:
    """Remove our own scratch folders that no process has any more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        with contextlib.suppress(OSError, StorageError):
            status = folder.lstat()
            if folder.is_symlink() or time.time() - status.st_mtime < YOUNG:
                continue
            if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
                continue
            with held(folder / ".lock", StorageError("in use"), str(folder)):
                pass
            shutil.rmtree(folder)
