"""The trainer's validation images, without the trainer: MNIST and Fashion-MNIST as their files lie on a disk.

The split is the one that `fftrain` makes (torch's random permutation under a fixed seed), redone in numpy and then
recognised: every exemplar, a training image by the format, has to be on the training side of it.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from msgspec import Struct

from ffruntime import bundle
from ffruntime.datasets import SPLIT_SEED

FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}  # as torchvision names them


class Images(Struct, frozen=True):
    """Images uint8 (N, C, H, W) and the label of each, int64 (N)."""

    pixels: np.ndarray
    labels: np.ndarray


def validation_images(manifest: bundle.Manifest, exemplars: Images, directory: Path) -> Images | None:
    """The validation images of the bundle's data set; None where they are not at hand, or not recognised."""
    source = manifest.training.data
    folder = directory / FOLDERS.get(source.name, "") / "raw"
    if source.name not in FOLDERS or source.offline_sample or not folder.is_dir():
        return None
    pixels = _read_idx(folder / "train-images-idx3-ubyte")
    labels = _read_idx(folder / "train-labels-idx1-ubyte")
    if pixels is None or labels is None or pixels.shape != (len(labels), *exemplars.pixels.shape[2:]):
        return None
    order = torch_permutation(len(pixels), SPLIT_SEED)
    training, validation = order[: -source.validation], order[-source.validation :]
    places = {pixels[index].tobytes(): index for index in training}
    found = [places.get(image.tobytes(), -1) for image in exemplars.pixels]
    if -1 in found:
        return None
    names = dict(
        zip(labels[found].tolist(), exemplars.labels.tolist(), strict=True)
    )  # label on disk -> the bundle's
    chosen = np.array([index for index in validation if int(labels[index]) in names])
    return Images(pixels[chosen][:, None], np.array([names[int(labels[index])] for index in chosen]))


def _read_idx(file: Path) -> np.ndarray | None:
    """Bytes in LeCun's format (http://yann.lecun.com/exdb/mnist/), plain or gzipped; None where they are not."""
    packed = file.with_name(f"{file.name}.gz")
    try:
        data = file.read_bytes() if file.exists() else gzip.decompress(packed.read_bytes())
        dimensions = data[3]
        shape = np.frombuffer(data, ">u4", dimensions, 4).tolist()
        return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, IndexError, ValueError):
        return None


def torch_permutation(count: int, seed: int) -> np.ndarray:
    """`torch.randperm(count)` of a CPU generator with that seed: MT19937; each place swaps with a later one."""
    random = np.frombuffer(np.random.RandomState(seed).bytes(4 * count), "<u4")
    order = np.arange(count)
    for index in range(count - 1):
        other = index + int(random[index]) % (count - index)
        order[index], order[other] = order[other], order[index]
    return order
