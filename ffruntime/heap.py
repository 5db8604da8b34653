"""The C library's heap, where memory is scarce."""

from __future__ import annotations

import contextlib
import ctypes

M_MMAP_THRESHOLD = -3  # mallopt(3)
BLOCK = 1 << 16  # bytes


def return_freed_blocks() -> None:
    """From now on, a block of 64 kB or more goes back to the system when it is freed.

    Left alone, glibc keeps blocks of up to 32 MB once the first was freed, so that a process stays as large as its
    largest call, and larger with every new size. What is returned has to be fetched again: calls take longer. Other
    C libraries have no such setting, and nothing happens.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # the last: Windows, where None is no library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, BLOCK)
