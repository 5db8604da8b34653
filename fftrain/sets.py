"""Which data sets there are, and which of their classes are asked for. The commands are made from this table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from ffruntime.core.data import IDX_FOLDERS
from ffruntime.core.errors import UsageError, unknown


class PublishedSet(Struct, frozen=True):
    """A data set as torchvision reads and downloads it: what it is called, where it lies, and what it holds."""

    loader: str  # in torchvision.datasets
    title: str
    authors: str
    folder: str  # in the data directory
    files: tuple[str, ...]  # in that folder
    archive: str  # what to get where there is no network
    shape: tuple[int, int, int]  # (C, H, W)
    counts: tuple[int, int, int]  # images to train on, to validate with (`core.data.SPLIT`), and to test with
    classes: tuple[str, ...]
    preprocessing: dict[str, Any]  # of a picture, as the manifest has it
    sample: bool = False  # whether a part of it is at hand without a network
    jpeg_copy: str | None = None  # a lossy copy, in the data directory

    @property
    def source(self) -> str:
        return f"{self.title} ({self.authors})"


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
    "mnist": PublishedSet(
        "MNIST",
        "MNIST",
        "LeCun, Cortes",
        IDX_FOLDERS["mnist"],
        _IDX,
        "its four files",
        (1, 28, 28),
        (50_000, 10_000, 10_000),
        tuple("0123456789"),
        {"kind": "digit", "box": 20},
        sample=True,
    ),
    "fashion-mnist": PublishedSet(
        "FashionMNIST",
        "Fashion-MNIST",
        "Xiao, Rasul, Vollgraf",
        IDX_FOLDERS["fashion-mnist"],
        _IDX,
        "its four files",
        (1, 28, 28),
        (50_000, 10_000, 10_000),
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        {"kind": "garment"},
    ),
    "cifar10": PublishedSet(
        "CIFAR10",
        "CIFAR-10",
        "Krizhevsky",
        "cifar-10-batches-py",
        (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"),
        "what is in cifar-10-python.tar.gz",
        (3, 32, 32),
        (40_000, 10_000, 10_000),
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        {"kind": "photo"},
        jpeg_copy="cifar10-jpeg.zip",
    ),
    "cifar100": PublishedSet(
        "CIFAR100",
        "CIFAR-100",
        "Krizhevsky",
        "cifar-100-python",
        ("train", "test", "meta"),
        "what is in cifar-100-python.tar.gz",
        (3, 32, 32),
        (40_000, 10_000, 10_000),
        tuple(_CIFAR100.split()),
        {"kind": "photo"},
    ),
}


def choose_classes(asked: str | Sequence[str] | None, names: Sequence[str]) -> tuple[int, ...]:
    """Indices into `names`: of a list as it is typed (`parse_classes`), of the names in `asked`, or (None) of all.

    Raises `UsageError` where a class does not exist, or only one is typed.
    """
    if asked is None:
        return tuple(range(len(names)))
    if isinstance(asked, str):
        return parse_classes(asked, names)
    return tuple(_index(name, names) for name in asked)


def parse_classes(text: str, names: Sequence[str]) -> tuple[int, ...]:
    """`0-8`, `1,3,5-7`, `cat,dog` -> indices, ascending. What is a name and an index too, is the name."""
    chosen: set[int] = set()
    for part in map(str.strip, text.split(",")):
        indices = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part, re.ASCII)
        if part in names or not indices:
            chosen.add(_index(part, names))
            continue
        first, last = int(indices[1]), int(indices[2] or indices[1])
        if not first <= last < len(names):
            raise UsageError(f"--classes {text}: there are {len(names)} classes, 0 to {len(names) - 1}, not {part}")
        chosen |= set(range(first, last + 1))
    if len(chosen) < 2:
        raise UsageError(f"--classes {text}: expected at least two classes, such as 0-8 or {names[0]},{names[1]}")
    return tuple(sorted(chosen))


def _index(name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise unknown("class in --classes:", name, names)
    return names.index(name)
