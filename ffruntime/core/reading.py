"""Reading what somebody else wrote: regular files alone, opened once, and no more of them than is expected."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO, TypeVar

import msgspec

Kind = TypeVar("Kind")
PIECE = 1 << 20  # bytes
# Neither a pipe without a writer nor a terminal keeps the opening waiting.
FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def of_the_process(error: BaseException | None) -> bool:
    """Whether a file could not be read for what this process or the system has used up: the file may be whole."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def open_regular(path: Path) -> IO[bytes]:
    """Open a file for reading, through links. Raises `OSError`, also where it is a pipe, a device or a folder."""
    descriptor = os.open(path, FLAGS)
    try:
        require_regular(path, os.fstat(descriptor).st_mode)
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def require_regular(path: Path, mode: int) -> None:
    """Raise `OSError` for the mode of what is no regular file."""
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "is no regular file", str(path))


def read_regular(path: Path, most: int) -> bytes:
    """A file's content. Raises `OSError`, also where it is no regular file or has more than `most` bytes."""
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"{size:,} bytes, of which at most {most:,} are expected", str(path))
        return stream.read(size)


def read_at_most(stream: IO[bytes], most: int) -> bytearray:
    """The next bytes of a stream, at most so many; memory is taken as they come, whatever `most` promises."""
    data = bytearray()
    while piece := stream.read(min(PIECE, most - len(data))):
        data += piece
    return data


def decode_json(data: bytes | str, kind: type[Kind]) -> Kind:
    """JSON as a `kind` (of msgspec). Raises `ValueError`, whatever is wrong with it."""
    try:
        found: Kind = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return found
