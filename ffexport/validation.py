"""The trainer's validation images, without the trainer: MNIST and Fashion-MNIST as their files lie on a disk.

The manifest says which training images they are. Every exemplar, a training image by the format, has to be among
the others; the exemplars also say which label on the disk is which class.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ffruntime.core.data import Examples, read_idx_examples
from ffruntime.core.errors import DataError
from ffruntime.core.manifest import Manifest

FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}  # as torchvision names them


def validation_images(manifest: Manifest, exemplars: Examples, directory: Path) -> Examples | None:
    """The validation images of the bundle's data set; None where they are not at hand, or not recognised."""
    source = manifest.training.data
    folder = directory / FOLDERS.get(source.name, "") / "raw"
    if source.name not in FOLDERS or source.split is None or not folder.is_dir():
        return None
    try:
        whole = read_idx_examples(folder, "train")
    except DataError:
        return None
    if whole.pixels.shape[1:] != exemplars.pixels.shape[1:]:
        return None
    training, validation = source.split.places(len(whole))
    places = {whole.pixels[index].tobytes(): index for index in training}
    found = [places.get(image.tobytes(), -1) for image in exemplars.pixels]
    if -1 in found:
        return None
    on_disk, classes = whole.labels[found].tolist(), exemplars.labels.tolist()
    names = dict(zip(on_disk, classes, strict=True))  # label on disk -> the bundle's
    chosen = np.array([index for index in validation if int(whole.labels[index]) in names])
    return Examples(whole.pixels[chosen], np.array([names[int(whole.labels[index])] for index in chosen]))
