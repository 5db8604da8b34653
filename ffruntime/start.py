"""The first thing that a program runs: Ctrl-C while it is still loading is one word, as later on."""

from __future__ import annotations

import sys


def start(module: str) -> None:
    """Load that module and run its `main`."""
    try:
        from importlib import import_module

        import_module(module).main()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
