"""MNIST from its own files: what a demonstration learns from, and what it is measured on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from msgspec import Struct

from ..core.data import permutation, read_idx
from ..core.errors import DataError
from ..core.transition import SPLIT_SEED

VALIDATION = 10_000  # of the training images, as `fftrain` splits them
SHAPE = (1, 28, 28)


class Digits(Struct, frozen=True):
    """Images uint8 (N, 1, 28, 28), and the digit that each shows, uint8 (N,)."""

    pixels: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: np.ndarray) -> Digits:
        """Those at the places `chosen`, or where it is true."""
        return Digits(self.pixels[chosen], self.labels[chosen])

    def of(self, *digits: int) -> Digits:
        """Those that show one of `digits`."""
        return self.take(np.isin(self.labels, digits))


def load(directory: Path, measured_on: str) -> tuple[Digits, Digits]:
    """Images to learn from, and those to measure on: the split `validation` or `test`.

    `directory` holds `MNIST/raw/`, as torchvision has it. Raises `DataError` where files are missing or damaged.
    """
    folder = directory / "MNIST" / "raw"
    if not folder.is_dir():
        raise DataError(
            f"{folder}: not there; put MNIST's four files into it, or name with --data (or $FF_DATA) a folder that "
            "holds MNIST/raw, such as 'fftrain mnist' makes"
        )
    training = _read(folder, "train")
    order = permutation(len(training), SPLIT_SEED)
    held_back = training.take(order[-VALIDATION:]) if measured_on == "validation" else _read(folder, "t10k")
    return training.take(order[:-VALIDATION]), held_back


def some(digits: Digits, count: int) -> Digits:
    """`count` of them, or all: the same ones every time."""
    return digits.take(np.random.default_rng(SPLIT_SEED).permutation(len(digits))[:count])


def _read(folder: Path, name: str) -> Digits:
    pixels, labels = (read_idx(folder / f"{name}-{part}-ubyte") for part in ("images-idx3", "labels-idx1"))
    if (
        pixels.shape != (len(labels), *SHAPE[1:])
        or labels.ndim != 1
        or len(labels) <= VALIDATION * (name == "train")
    ):
        raise DataError(f"{folder}: {name}: not MNIST's: images {pixels.shape}, labels {labels.shape}")
    if labels.max(initial=0) > 9:
        raise DataError(f"{folder}: {name}: a label is {labels.max()}, which is no digit")
    return Digits(pixels[:, None], labels)
