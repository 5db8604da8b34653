"""The trainer's validation images, without the trainer: MNIST and Fashion-MNIST as their files lie on a disk.

The split is the one that `fftrain` makes (torch's random permutation under a fixed seed), redone in numpy and then
recognised: every exemplar, a training image by the format, has to be on the training side of it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from msgspec import Struct

from ffruntime import bundle
from ffruntime.datasets import SPLIT_SEED, torch_permutation
from ffruntime.errors import DataError
from ffruntime.idx import read_idx

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
    try:
        pixels, labels = (read_idx(folder / f"train-{part}-ubyte") for part in ("images-idx3", "labels-idx1"))
    except DataError:
        return None
    if pixels.shape != (len(labels), *exemplars.pixels.shape[2:]):
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
