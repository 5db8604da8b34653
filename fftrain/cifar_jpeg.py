"""CIFAR-10 as a tree of JPEG files in a .zip: lossy, so that no result on it compares with one on CIFAR-10."""

from __future__ import annotations

from pathlib import Path

from ffruntime.core.errors import DataError

from .image_folder import arrange, read_pictures
from .picture_tree import open_tree
from .torchvision_sets import SETS, Arrays

NAME = "cifar10-jpeg.zip"  # in the data directory
TITLE = "CIFAR-10 (JPEG copy), not comparable with CIFAR-10"


def read_jpeg_copy(path: Path) -> tuple[Arrays, Arrays]:
    """Its 50,000 training and 10,000 test images, class by class. Raises `DataError` where it is damaged."""
    cifar = SETS["cifar10"]
    arrays = []
    with open_tree(path) as (names, read):
        tree = arrange(names)
        for part, count in zip(("train", "test"), cifar.counts, strict=True):
            files = tree.parts.get(part, {})
            pictures = [(file, label) for label, name in enumerate(cifar.classes) for file in files.get(name, [])]
            if len(pictures) != count:
                raise DataError(f"{path}: damaged: {len(pictures):,} pictures in {part} instead of {count:,}")
            arrays.append(read_pictures(pictures, read, path, cifar.shape[1], cifar.shape[0]))
    return arrays[0], arrays[1]
