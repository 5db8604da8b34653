"""MNIST's digits: what a demonstration learns from and is measured on, and the bundles that know them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..core.bundle import Bundle
from ..core.data import IDX_FOLDERS, SPLIT, Examples, read_idx_examples
from ..core.errors import BundleError, DataError
from ..model import Model

SHAPE = (1, 28, 28)
DIGITS = tuple("0123456789")


def load(directory: Path, measured_on: str) -> tuple[Examples, Examples]:
    """Images to learn from, and those to measure on: the split `validation` or `test`.

    `directory` holds `MNIST/raw/`, as torchvision has it. Raises `DataError` where files are missing or damaged.
    """
    folder = directory / IDX_FOLDERS["mnist"]
    if not folder.is_dir():
        raise DataError(
            f"{folder}: not there; put MNIST's four files into it, or name with --data (or $FF_DATA) a folder that "
            "holds MNIST/raw, such as 'fftrain mnist' makes"
        )
    training = _read(folder, "train")
    learned, held_back = SPLIT.places(len(training))
    measured = training.take(held_back) if measured_on == "validation" else _read(folder, "t10k")
    return training.take(learned), measured


def _read(folder: Path, part: str) -> Examples:
    examples = read_idx_examples(folder, part)
    count, shape = len(examples), examples.pixels.shape
    if shape[1:] != SHAPE or count <= SPLIT.validation * (part == "train"):
        raise DataError(f"{folder}: {part}: not MNIST's: images {(count, *shape[2:])}, labels {(count,)}")
    if examples.labels.max(initial=0) > 9:
        raise DataError(f"{folder}: {part}: a label is {examples.labels.max()}, which is no digit")
    return examples


def some(examples: Examples, count: int) -> Examples:
    """`count` of them, or all: the same ones every time."""
    return examples.take(np.random.default_rng(SPLIT.seed).permutation(len(examples))[:count])


def showing(examples: Examples, *digits: int) -> Examples:
    """Those that show one of `digits`."""
    return examples.take(np.isin(examples.labels, digits))


def names(examples: Examples) -> list[str]:
    """What each one shows, as the class is called in a bundle."""
    return [str(digit) for digit in examples.labels]


def known(bundle: Bundle) -> list[int]:
    """The digits that a bundle knows."""
    return [int(name) for name in bundle.manifest.classes]


def require_digits(bundle: Bundle, remedy: str) -> None:
    """Raises `BundleError`, with the command that helps, for a network of other images or of other things."""
    network, classes = bundle.manifest.network, bundle.manifest.classes
    if network.image.shape != SHAPE:
        shape = "×".join(map(str, network.image.shape))
        raise BundleError(f"{bundle.path}: takes images of {shape}, MNIST's are 1×28×28; make one: {remedy}")
    if others := set(classes) - set(DIGITS):
        raise BundleError(f"{bundle.path}: knows {', '.join(sorted(others))}, not only digits; make one: {remedy}")
    if bundle.manifest.training.data.split not in (None, SPLIT):
        raise BundleError(f"{bundle.path}: was trained on another split of MNIST; make one: {remedy}")


def accuracy(model: Model, examples: Examples, mode: str) -> float:
    """Share of the images that the model names rightly; a digit that it has no name for is never right."""
    answers = np.array(model.classes)[model.scores(examples.pixels, mode).argmax(1)]
    return float(np.mean(answers == examples.labels.astype(str)))
