"""One writer of a bundle at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from .core.errors import StorageError


@contextlib.contextmanager
def writing(bundle: Path) -> Iterator[None]:
    """While the block runs, no other process begins to write that bundle, or to train it where it is not there yet.

    The lock is a file in the bundle, or beside the place where it will be. Raises `StorageError` where another
    process has it, or where nothing can be written.
    """
    from filelock import FileLock, Timeout

    file = bundle / ".lock" if bundle.is_dir() else bundle.with_name(f".{bundle.name}.lock")
    lock = FileLock(file, timeout=0)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise StorageError(f"{bundle}: another process is writing it; try again when it is done") from error
    except (OSError, NotImplementedError) as error:
        said = getattr(error, "strerror", None) or "the file system has no locks"
        raise StorageError(f"{bundle}: cannot be written: {file}: {said}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)  # who waits for it sees that it is gone
        lock.release()
