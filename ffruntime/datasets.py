"""Where data sets lie, and how their training images are split: one answer for all three programs."""

from __future__ import annotations

import os
from pathlib import Path

SPLIT_SEED = 20231222


def data_directory(option: str | None) -> Path:
    """Where data sets lie: the option, else `$FF_DATA`, else the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(option or os.environ.get("FF_DATA") or cache / "ffedge")
