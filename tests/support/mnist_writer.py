"""MNIST's files, written as LeCun did."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ffruntime.core.data import SPLIT, Examples

VALIDATION = SPLIT.validation
COUNT = VALIDATION + 20  # of `numbered`


def idx(array: np.ndarray) -> bytes:
    """uint8 of any shape in LeCun's format."""
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def write_mnist(directory: Path, **parts: np.ndarray) -> Path:
    """`directory` with MNIST/raw: `train_images` becomes `train-images-idx3-ubyte`, and so on."""
    folder = directory / "MNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    for part, array in parts.items():
        (folder / f"{part.replace('_', '-')}-idx{array.ndim}-ubyte").write_bytes(idx(array))
    return directory


def numbered(directory: Path) -> Path:
    """Files whose n-th training image begins with n."""
    images = np.zeros((COUNT, 28, 28), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.arange(COUNT) // 256, np.arange(COUNT) % 256
    labels = (np.arange(COUNT) % 10).astype(np.uint8)
    return write_mnist(
        directory,
        train_images=images,
        train_labels=labels,
        t10k_images=images[:30] + 1,
        t10k_labels=labels[:30],
    )


def numbers(digits: Examples) -> list[int]:
    """Which of the `numbered` images they are."""
    return (256 * digits.pixels[:, 0, 0, 0].astype(int) + digits.pixels[:, 0, 0, 1]).tolist()
