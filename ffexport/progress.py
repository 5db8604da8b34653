"""One line on a terminal's stderr that says what is being done, and how far it is."""

from __future__ import annotations

import sys
from collections.abc import Callable

WIDTH = 24


def bar() -> Callable[[str, float], None]:
    """Draws (what, share done) over itself; an empty `what` wipes it. Silent where nobody watches."""
    if not sys.stderr.isatty():
        return lambda _what, _share: None

    def draw(what: str, share: float) -> None:
        full = round(WIDTH * share)
        line = f"{'█' * full}{'░' * (WIDTH - full)}  {what}" if what else ""
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()

    return draw
