"""MNIST's files, written as LeCun did."""

from __future__ import annotations

from pathlib import Path

import numpy as np


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
