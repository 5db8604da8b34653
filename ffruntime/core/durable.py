"""Writing that a full disk or a lost power supply cannot leave half done: stage beside, sync, rename.

What is written is a new regular file of an unpredictable name, and never goes through a link.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import sys
from pathlib import Path

from .errors import StorageError
from .reading import open_regular, require_regular

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL  # which no link can be in the way of


def stage(target: Path, data: bytes) -> Path:
    """Write `data` beside `target` and sync it; leaves nothing behind when that fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}.{secrets.token_hex(8)}.new")
    descriptor = os.open(staged, NEW | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            sync(stream.fileno())
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    return staged


def write_atomically(target: Path, data: bytes) -> None:
    """Replace one file by another as a whole, durably. Raises `StorageError`, with the old file intact.

    A link in its place is replaced, too; a device, a pipe or a folder is refused.
    """
    try:
        if target.exists():
            require_regular(target, target.stat().st_mode)
        staged = stage(target, data)
        try:
            staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)  # where it could not be renamed
        sync_directory(target.parent)
    except OSError as error:
        raise StorageError(f"{target}: cannot be written: {error.strerror}") from error


def sync(descriptor: int) -> None:
    """Make an open file durable. On macOS, where `fsync` leaves it in the drive's own memory, by F_FULLFSYNC.

    A file system without that (ENOTSUP, EINVAL: those of a network) is asked for `fsync`. Raises `OSError`.
    """
    if sys.platform == "darwin":
        import fcntl

        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EINVAL):
                raise
    os.fsync(descriptor)


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable: new names, and names that are gone.

    A file system that answers that it has no such thing (EINVAL: CIFS, 9p, some of FUSE) keeps names durable in
    its own way, or not at all: no program can do more. Any other error counts.
    """
    if os.name == "nt":  # Windows cannot open a directory, and syncs its entries by itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """SHA-256 of a regular file, in hexadecimal, without holding it in memory."""
    digest = hashlib.sha256()
    with open_regular(path) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
