"""How graphs decide on images: on which, how many answers are right and are fp32's, and what loss is tolerated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
from msgspec import Struct

from ffruntime.core.architecture import Network
from ffruntime.core.cost import goodness_macs
from ffruntime.core.data import IDX_FOLDERS, Examples, read_idx_examples
from ffruntime.core.errors import DataError
from ffruntime.core.manifest import EXIT, Manifest, Mode
from ffruntime.core.precision import Precision
from ffruntime.model import Model

BUDGET = 2e11  # multiply-accumulates spent on a set of images in each mode: some seconds of a processor
CHUNK = 64  # images between two reports of progress
# Share of right answers that may be lost, and of decisions that may differ from fp32's.
MAY_LOSE: Mapping[Precision, float] = {"fp32": 0.0, "fp16": 2e-4, "int8": 1e-3}
EXIT_MAY_LOSE = 5e-4  # mode `exit` besides
MAY_DIFFER: Mapping[Precision, float] = {"fp32": 0.0, "fp16": 2e-3, "int8": 1e-2}

Progress: TypeAlias = Callable[[str, float], None]  # what is being done, and the share of it that is
Scores: TypeAlias = dict[str, np.ndarray]  # inference mode -> (N, classes)

# ---------------------------------------- images ----------------------------------------


def affordable(images: Examples, network: Network, classes: int) -> Examples:
    """As many of the images, from the first on, as `BUDGET` allows, at least 16."""
    count = max(16, int(BUDGET / goodness_macs(network, classes)))
    return images.take(slice(count))


def validation_images(manifest: Manifest, exemplars: Examples, directory: Path) -> Examples | None:
    """The trainer's validation images, of MNIST or Fashion-MNIST as their files lie in `directory`.

    The manifest says which training images they are. Every exemplar, a training image by the format, has to be
    among the others; the exemplars also say which label on the disk is which class. None where the images are not
    at hand, or not recognised.
    """
    source = manifest.training.data
    folder = directory / IDX_FOLDERS.get(source.name, "")
    if source.name not in IDX_FOLDERS or source.split is None or not folder.is_dir():
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


# ---------------------------------------- decisions on them ----------------------------------------


class Decisions(Struct, frozen=True):
    """Of a set of images in one inference mode, counted."""

    right: int
    agree: int  # with fp32
    images: int


def judged_modes(manifest: Manifest) -> tuple[Mode, ...]:
    """The modes that a precision is judged by: those that the network was trained for, and calibrated `exit`."""
    return (*manifest.modes, EXIT) if manifest.exit else manifest.modes


def scores(model: Model, images: Examples, progress: Progress, what: str) -> Scores:
    """Scores of every image in every mode that a precision is judged by."""
    modes, count = judged_modes(model.manifest), len(images)
    result: Scores = {}
    for turn, mode in enumerate(modes):
        rows = []
        for start in range(0, count, CHUNK):
            progress(f"{model.precision}: {what}", (turn + start / count) / len(modes))
            rows.append(model.scores(images.pixels[start : start + CHUNK], mode))
        result[mode] = np.concatenate(rows)
    return result


def compare(ours: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> Decisions:
    """Decisions by scores (N, classes), beside fp32's."""
    answers = ours.argmax(1)
    right, agree = int((answers == labels).sum()), int((answers == reference.argmax(1)).sum())
    return Decisions(right, agree, len(labels))


def lost_beyond(ours: np.ndarray, reference: np.ndarray, labels: np.ndarray, allowed: float) -> float:
    """The share of right answers that is lost by scores (N, classes), where it is more than `allowed` and more than
    one answer; else 0."""
    now, before = compare(ours, reference, labels), compare(reference, reference, labels)
    lost = (before.right - now.right) / now.images
    return lost if lost > max(allowed, 1 / now.images) else 0.0


def faithful(ours: np.ndarray, reference: np.ndarray, labels: np.ndarray, precision: Precision) -> bool:
    """Whether decisions by scores (N, classes) keep to what the precision may lose.

    One lost answer is always tolerated: among some hundred exemplars it is not significant.
    """
    now, before = compare(ours, reference, labels), compare(reference, reference, labels)
    lost, differ = before.right - now.right, now.images - now.agree
    bearable = lost <= max(1, MAY_LOSE[precision] * now.images) and differ <= MAY_DIFFER[precision] * now.images
    return bearable and bool(np.isfinite(ours).all())


def noise_to_signal(ours: Scores, reference: Scores) -> float:
    """Of the differences between classes: a precision's noise there as a share of their spread in fp32; the mode
    where it is largest counts."""

    def centred(values: np.ndarray) -> np.ndarray:
        return values - values.mean(1, keepdims=True)

    ratios = [
        float(np.std(centred(ours[mode] - expected)) / (np.std(centred(expected)) or 1.0))
        for mode, expected in reference.items()
    ]
    return max(ratios) if np.isfinite(ratios).all() else float("inf")
