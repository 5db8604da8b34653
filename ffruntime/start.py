"""The first thing that a program runs: an end that is asked for while it is still loading is one in order, too."""

from __future__ import annotations

import sys

INTERRUPTED, TERMINATED = 130, 143  # 128 and the signal's number


def start(module: str) -> None:
    """Load that module and run its `main`.

    SIGTERM ends it as an error would: scratch files are cleared, processes that it started end. A container's first
    process would not obey it by itself.
    """
    try:
        import signal

        before = signal.signal(signal.SIGTERM, _end)
        try:
            from importlib import import_module

            import_module(module).main()
        finally:
            signal.signal(signal.SIGTERM, before)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(INTERRUPTED)


def _end(_number: int, _frame: object) -> None:
    raise SystemExit(TERMINATED)
