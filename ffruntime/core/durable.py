"""Writing that a full disk or a lost power supply cannot leave half done: stage beside, sync, rename."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from .errors import StorageError


def stage(target: Path, data: bytes, suffix: str = ".new") -> Path:
    """Write `data` beside `target` and sync it; leaves nothing behind when that fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}{suffix}")
    try:
        with staged.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    return staged


def write_atomically(target: Path, data: bytes) -> None:
    """Replace one file by another as a whole, durably. Raises `StorageError`, with the old file intact."""
    try:
        staged = stage(target, data)
        try:
            staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)  # where it could not be renamed
        sync_directory(target.parent)
    except OSError as error:
        raise StorageError(f"{target}: cannot be written: {error.strerror}") from error


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable: new names, and names that are gone."""
    if os.name == "nt":  # Windows cannot open a directory, and syncs its entries by itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal, without holding it in memory."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
