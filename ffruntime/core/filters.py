"""Edge filters: what a convolution can begin as that nobody trains."""

from __future__ import annotations

import numpy as np


def edge_filters(directions: int, side: int) -> np.ndarray:
    """Derivatives of a Gaussian in so many directions, evenly all the way round: float32 (directions, side, side).

    Its deviation is a quarter of side − 1; the first filter answers where the right is brighter than the left.
    """
    deviation = (side - 1) / 4
    offsets = np.arange(side) - (side - 1) / 2
    bell = np.exp(-np.square(offsets / deviation) / 2)
    across, down = np.outer(bell, offsets * bell), np.outer(offsets * bell, bell)
    turns = 2 * np.pi * np.arange(directions) / directions
    return np.stack([np.cos(turn) * across + np.sin(turn) * down for turn in turns]).astype(np.float32)
