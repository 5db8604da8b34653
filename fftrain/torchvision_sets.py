"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100, as torchvision reads and downloads them."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TypeAlias
from urllib.error import URLError

import numpy as np
from msgspec import Struct

from ffruntime.core.errors import DataError, MissingExtra
from ffruntime.core.manifest import Digit, Garment, Photo, Preprocessing

Arrays: TypeAlias = tuple[np.ndarray, np.ndarray]  # images uint8 (N, C, H, W) and labels int64 (N,)


class TorchvisionSet(Struct, frozen=True):
    """A data set of torchvision: what it is called there, where it lies, and what it holds."""

    loader: str  # in torchvision.datasets
    title: str
    folder: str  # in the data directory
    files: tuple[str, ...]  # in that folder
    archive: str  # what to get where there is no network
    shape: tuple[int, int, int]  # (C, H, W)
    counts: tuple[int, int]  # training and test images
    classes: tuple[str, ...]
    preprocessing: Preprocessing


_IDX = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))

_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

SETS = {
    "mnist": TorchvisionSet(
        "MNIST",
        "MNIST (LeCun, Cortes)",
        "MNIST/raw",
        _IDX,
        "its four files",
        (1, 28, 28),
        (60_000, 10_000),
        tuple("0123456789"),
        Digit(box=20),
    ),
    "fashion-mnist": TorchvisionSet(
        "FashionMNIST",
        "Fashion-MNIST (Xiao, Rasul, Vollgraf)",
        "FashionMNIST/raw",
        _IDX,
        "its four files",
        (1, 28, 28),
        (60_000, 10_000),
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        Garment(),
    ),
    "cifar10": TorchvisionSet(
        "CIFAR10",
        "CIFAR-10 (Krizhevsky)",
        "cifar-10-batches-py",
        (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"),
        "what is in cifar-10-python.tar.gz",
        (3, 32, 32),
        (50_000, 10_000),
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        Photo(),
    ),
    "cifar100": TorchvisionSet(
        "CIFAR100",
        "CIFAR-100 (Krizhevsky)",
        "cifar-100-python",
        ("train", "test", "meta"),
        "what is in cifar-100-python.tar.gz",
        (3, 32, 32),
        (50_000, 10_000),
        tuple(_CIFAR100.split()),
        Photo(),
    ),
}


def is_present(wanted: TorchvisionSet, directory: Path) -> bool:
    """Whether all its files are in the data directory."""
    return all((directory / wanted.folder / file).exists() for file in wanted.files)


def load_set(wanted: TorchvisionSet, directory: Path) -> tuple[Arrays, Arrays]:
    """Its training and test images, downloaded into `directory` if they are not there.

    Raises `ConnectionError` where they are not there and cannot be had, `DataError` where they are damaged.
    """
    arrays = read_set(wanted, directory)
    for (pixels, labels), count in zip(arrays, wanted.counts, strict=True):
        if pixels.shape != (count, *wanted.shape) or labels.shape != (count,):
            raise _damaged(wanted, directory, f"not {count:,} images")
    return arrays


def read_set(wanted: TorchvisionSet, directory: Path) -> tuple[Arrays, Arrays]:
    """`load_set`, however many images the files hold."""
    try:
        from torchvision import datasets
    except ImportError as error:
        raise MissingExtra("torchvision", "train") from error
    present = is_present(wanted, directory)
    loader = getattr(datasets, wanted.loader)
    try:
        with redirect_stdout(sys.stderr):  # which some versions of torchvision write to
            sets = [loader(str(directory), train=train, download=not present) for train in (True, False)]
    except Exception as error:  # torchvision raises anything on what it cannot read or fetch
        reason = " ".join(str(error).split())
        if present:
            raise _damaged(wanted, directory, reason) from error
        if isinstance(error, URLError | ConnectionError | TimeoutError | RuntimeError):  # no mirror answered
            raise ConnectionError(reason) from error
        raise DataError(
            f"{directory}: {wanted.title} cannot be put there: {reason}; choose another place with --data"
        ) from error
    return _to_arrays(sets[0]), _to_arrays(sets[1])


def _to_arrays(images: Any) -> Arrays:
    """Data of torchvision, (N, H, W) or (N, H, W, 3), channels first."""
    pixels = np.asarray(images.data)
    pixels = pixels[:, None] if pixels.ndim == 3 else np.moveaxis(pixels, 3, 1)
    return np.ascontiguousarray(pixels), np.asarray(images.targets, dtype=np.int64)


def _damaged(wanted: TorchvisionSet, directory: Path, reason: str) -> DataError:
    return DataError(
        f"{directory / wanted.folder}: damaged; delete that folder to download {wanted.loader} again, "
        f"or point --data elsewhere ({reason})"
    )
