"""The first thing that a program runs: an end that is asked for while it is still loading is one in order, too."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED, TERMINATED = 130, 143  # 128 and the signal's number


def start(module: str) -> None:
    """Load that module and run its `main`."""
    try:
        with obeying_sigterm():
            from importlib import import_module

            import_module(module).main()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(INTERRUPTED)


@contextmanager
def obeying_sigterm() -> Iterator[None]:
    """Within it, SIGTERM ends the program as an error would: scratch files are cleared, child processes ended.

    A container's first process would not obey it by itself. Only a main thread can have it so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)
