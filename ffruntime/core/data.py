"""Data sets as all three programs know them: examples, where they lie, and which are for validation."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import IO, Annotated, Any, Generic, TypeVar

import numpy as np
from msgspec import Meta, Struct

from .errors import DataError, UsageError
from .reading import open_regular, read_at_most

# Where the sets lie that come as MNIST's four files, in the data directory: as torchvision has them, by their names
# in `fftrain`.
IDX_FOLDERS = {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw"}
LARGEST = 1 << 28  # bytes that an IDX file may hold; MNIST's largest holds 47 million

Array = TypeVar("Array", bound=Any)  # a numpy array; in training a torch tensor


class Examples(Struct, Generic[Array], frozen=True):
    """Images uint8 (N, C, H, W), and the label of each, an integer (N,): in numpy or, in training, in torch."""

    pixels: Array
    labels: Array

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: Any) -> Examples[Array]:
        """Those at the places `chosen`, in a slice, or where it is true."""
        return Examples(self.pixels[chosen], self.labels[chosen])

    @staticmethod
    def none(shape: tuple[int, ...]) -> Examples[np.ndarray]:
        """No examples, of that shape."""
        return Examples(np.empty((0, *shape), np.uint8), np.empty(0, np.int64))


def require_images(images: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise `UsageError` unless these are images of that shape (C, H, W), one at least: uint8 (N, C, H, W)."""
    wanted = f"uint8 (N, {', '.join(map(str, shape))}), one at least"
    if not isinstance(images, np.ndarray):
        raise UsageError(f"images: must be an array of numpy, {wanted}, not {type(images).__name__}")
    if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
        raise UsageError(f"images: must be {wanted}, not {images.dtype} {images.shape}")


class Split(Struct, frozen=True, forbid_unknown_fields=True):
    """Which of a data set's training images are for validation: the last `validation` of a random permutation."""

    seed: Annotated[int, Meta(ge=0, lt=1 << 32)]
    validation: Annotated[int, Meta(ge=0)]

    def places(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Of `count` training images, the places of those to train on and of those for validation."""
        order = permutation(count, self.seed)
        return order[: count - self.validation], order[count - self.validation :]


SPLIT = Split(20231222, 10_000)  # of the published sets (Scodellaro et al.: 50,000 / 10,000 of MNIST)


def permutation(count: int, seed: int) -> np.ndarray:
    """0 … count − 1 in random order: MT19937, each place swaps with a later one, as `torch.randperm` on a CPU."""
    random = np.frombuffer(np.random.RandomState(seed).bytes(4 * count), "<u4")
    order = np.arange(count)
    for index in range(count - 1):
        other = index + int(random[index]) % (count - index)
        order[index], order[other] = order[other], order[index]
    return order


def data_directory(option: str | None) -> Path:
    """Where data sets lie: the option, else `$FF_DATA`, else the user's cache."""
    return Path(option or os.environ.get("FF_DATA") or cache_directory())


def cache_directory() -> Path:
    """The user's cache; of a user without a home (a container's number), `.cache` in the working directory."""
    try:
        home = Path.home()
    except RuntimeError:  # no $HOME, and no entry in passwd
        home = Path()
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "ffedge"


def to_unit_interval(pixels: np.ndarray) -> np.ndarray:
    """uint8 pixels of any shape -> float32 in [0, 1]."""
    return pixels.astype(np.float32) / np.float32(255)


def read_idx_examples(folder: Path, part: str) -> Examples[np.ndarray]:
    """Grey images and labels of a part, `train` or `t10k`, as MNIST's files have them in `folder`.

    Raises `DataError` where files are missing or damaged, or do not belong together.
    """
    pixels, labels = (read_idx(folder / f"{part}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
    if pixels.ndim != 3 or labels.shape != pixels.shape[:1]:
        raise DataError(f"{folder}: {part}: not MNIST's: images {pixels.shape}, labels {labels.shape}")
    return Examples(pixels[:, None], labels)


def read_idx(file: Path) -> np.ndarray:
    """The array, uint8, in `file`, or in `file`.gz beside it; no more is read than the header says.

    The format is LeCun's (http://yann.lecun.com/exdb/mnist/). Raises `DataError` where there is no such file, or
    one that is damaged or larger than `LARGEST`.
    """
    import gzip  # classifying reads no data set
    import zlib

    packed = file.with_name(f"{file.name}.gz")
    path = file if file.exists() else packed
    try:
        with open_regular(path) as raw:
            stream: IO[bytes] = gzip.GzipFile(fileobj=raw) if path is packed else raw  # type: ignore[assignment]
            magic = stream.read(4)
            if magic[:3] != b"\0\0\x08" or len(magic) < 4 or not 1 <= magic[3] <= 4:
                raise DataError(f"{path}: not in LeCun's format of bytes")
            header = stream.read(4 * magic[3])
            shape = [int.from_bytes(header[start : start + 4], "big") for start in range(0, len(header), 4)]
            count = math.prod(shape)
            if len(header) < 4 * magic[3] or max(count, *shape) > LARGEST:
                raise DataError(f"{path}: damaged: its header says {' × '.join(map(str, shape))}")
            data = read_at_most(stream, count + 1)
    except FileNotFoundError as error:
        raise DataError(f"{file}: not there, nor {packed.name}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if len(data) != count:
        raise DataError(f"{path}: damaged: not the {count:,} bytes that its header says")
    return np.frombuffer(data, np.uint8).reshape(shape)
