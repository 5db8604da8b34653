"""Where data sets lie, and how their training images are split: one answer for all three programs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

SPLIT_SEED = 20231222


def data_directory(option: str | None) -> Path:
    """Where data sets lie: the option, else `$FF_DATA`, else the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(option or os.environ.get("FF_DATA") or cache / "ffedge")


def torch_permutation(count: int, seed: int) -> np.ndarray:
    """`torch.randperm(count)` of a CPU generator with that seed: MT19937; each place swaps with a later one."""
    random = np.frombuffer(np.random.RandomState(seed).bytes(4 * count), "<u4")
    order = np.arange(count)
    for index in range(count - 1):
        other = index + int(random[index]) % (count - index)
        order[index], order[other] = order[other], order[index]
    return order
