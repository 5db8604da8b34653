"""What a network says of a split in every mode, and how good that is: accuracy, calibration, confusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from msgspec import Struct
from torch import Tensor

from ffruntime.core.architecture import Network, class_goodness, scored_units
from ffruntime.core.bundle import Bundle
from ffruntime.core.calibration import UNSURE, Calibration, OfUnit, probabilities, thresholds, typicality
from ffruntime.core.data import Examples
from ffruntime.core.manifest import EXIT, TRAINED_MODES, lone_units
from ffruntime.core.tables import table

from . import network as net
from .calibration import Bin, expected_calibration_error, fit, reliability
from .functional import Tensors

PASSES = 2_000  # images with a label that go through the network at once
IMAGES = 200  # that are looked at between reports
WIDEST = 20  # classes of a confusion matrix; a wider table fits no terminal

Scores = dict[str, np.ndarray]  # inference mode -> score of every class, (N, classes)


class Measured(Struct, frozen=True):
    """How one mode did on one split. `confusion` counts images, a row for each right class."""

    accuracy: float
    temperature: float  # fitted on the validation images
    calibration_error_before: float  # expected calibration error, of 15 bins, of softmax(scores)
    calibration_error: float  # the same of softmax(scores / temperature)
    unsure: float  # share of the answers that are called unsure at the rate `UNSURE`
    reliability: tuple[Bin, ...]
    confusion: tuple[tuple[int, ...], ...]


def load_tensors(bundle: Bundle, device: torch.device) -> Tensors:
    """The weights of a bundle, for torch. Raises `BundleError` where they are not the manifest's."""
    return {name: torch.tensor(array, device=device) for name, array in bundle.weights().items()}


@torch.no_grad()
def goodness_scores(
    network: Network, tensors: Tensors, pixels: Tensor, classes: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Total goodness of every class: pixels uint8 (N, C, H, W) -> (N, classes)."""
    return net.total_goodness(network, tensors, unit_goodness(network, tensors, pixels, classes, dtype))


@torch.no_grad()
def unit_goodness(
    network: Network, tensors: Tensors, pixels: Tensor, classes: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Goodness of every class in every unit: pixels uint8 (N, C, H, W) -> (N, classes, U)."""
    labels = torch.arange(classes, device=pixels.device)
    at_once = IMAGES if class_goodness(network) else max(1, PASSES // classes)
    parts = (net.to_images(part, network, dtype) for part in pixels.split(at_once))
    return torch.cat([net.label_goodness(network, tensors, part, labels) for part in parts])


@torch.no_grad()
def classifier_scores(
    network: Network, tensors: Tensors, pixels: Tensor, classes: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Logit of every class, with the neutral label: pixels uint8 (N, C, H, W) -> (N, classes)."""
    rows = [
        net.classify_linear(network, tensors, net.to_images(part, network, dtype))[1][:, :classes]
        for part in pixels.split(IMAGES)
    ]
    return torch.cat(rows)


SCORES = {"goodness": goodness_scores, "classifier": classifier_scores}


def passes(network: Network, images: int, classes: int, modes: tuple[str, ...]) -> int:
    """Passes through the network that `predict` makes: one for each label by goodness, but one for all by class
    goodness; one by the classifier."""
    each = 1 if class_goodness(network) else classes
    return images * sum(each if mode == "goodness" else 1 for mode in modes)


def predict(
    network: Network,
    tensors: Tensors,
    split: Examples,
    classes: int,
    dtype: torch.dtype = torch.float32,
    modes: tuple[str, ...] = TRAINED_MODES,
    advance: Callable[[int], object] = lambda _: None,
) -> Scores:
    """Score of every class for every image of a split, by mode; `advance` is told of passes as they are made."""
    result = {}
    for mode in modes:
        rows = []
        for part in split.pixels.split(IMAGES):
            rows.append(SCORES[mode](network, tensors, part, classes, dtype).cpu().numpy())
            advance(passes(network, len(part), classes, (mode,)))
        result[mode] = np.concatenate(rows)
    return result


def accuracies(scores: Scores, labels: Tensor) -> dict[str, float]:
    """Share of right answers by mode; `labels` (N,)."""
    right = labels.cpu().numpy()
    return {mode: float((rows.argmax(1) == right).mean()) for mode, rows in scores.items()}


def accuracy(
    network: Network,
    tensors: Tensors,
    split: Examples,
    classes: int,
    dtype: torch.dtype,
    modes: tuple[str, ...] = TRAINED_MODES,
) -> dict[str, float]:
    """Share of right answers by inference mode."""
    return accuracies(predict(network, tensors, split, classes, dtype, modes), split.labels)


def calibrate(
    network: Network,
    tensors: Tensors,
    validation: Examples,
    scores: Scores,
    logit_weight: float,
    distances: np.ndarray | None,
    of_units: Mapping[str, np.ndarray] | None = None,
    known: Mapping[str, OfUnit] | None = None,
) -> Calibration:
    """Calibration of a network that is trained, from its validation images, the scores of these by mode, and where
    there are any, their `distances` (N,) to the nearest class, by the whole pass and to each unit, of which `known`
    is stored."""
    units = {}
    if class_goodness(network):
        classes = next(iter(scores.values())).shape[1]
        goodness = unit_goodness(network, tensors, validation.pixels, classes)
        names = zip(lone_units(network), scored_units(network), strict=False)
        units = {name: goodness[:, :, index].cpu().numpy() for name, index in names}
        units[EXIT] = net.total_goodness(network, tensors, goodness).cpu().numpy()  # without class statistics
    return fit(scores, validation.labels.cpu().numpy(), logit_weight, units, distances, of_units, known)


def measure(
    scores: Scores, labels: Tensor, calibration: Calibration, distances: np.ndarray | None = None
) -> dict[str, Measured]:
    """How each mode did on the images whose scores and labels (N,) are given, and `distances` (N,) to the nearest
    class where there are any, as it was calibrated before."""
    right, result = labels.cpu().numpy(), {}
    typical = None if distances is None else typicality(calibration, distances)
    for mode, rows in scores.items():
        of, answers = calibration.scores[mode], rows.argmax(1)
        sure = probabilities(rows, of.temperature).max(1)
        least, least_typical = thresholds(calibration, of, UNSURE, typical is not None)
        unsure = sure < least if typical is None else (sure < least) | (typical < least_typical)
        bins = reliability(sure, answers == right)
        before = reliability(probabilities(rows, 1.0).max(1), answers == right)
        result[mode] = Measured(
            accuracy=float((answers == right).mean()),
            temperature=of.temperature,
            calibration_error_before=expected_calibration_error(before),
            calibration_error=expected_calibration_error(bins),
            unsure=float(unsure.mean()),
            reliability=bins,
            confusion=tuple(map(tuple, confusion_matrix(right, answers, rows.shape[1]).tolist())),
        )
    return result


# Confusion: which classes are taken for which


def confusion_matrix(labels: np.ndarray, answers: np.ndarray, classes: int) -> np.ndarray:
    """Right classes (N,) and answers (N,) -> counts (classes, classes), a row for each right class."""
    return np.bincount(labels * classes + answers, minlength=classes**2).reshape(classes, classes)


def most_confused(matrix: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """The commonest mistakes, at most `count`: (right class, answer, how often), the commonest first."""
    mistakes = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:count]
    pairs = [(*divmod(int(index), len(matrix)), int(mistakes.flat[index])) for index in order]
    return [pair for pair in pairs if pair[2]]


def confusion_table(matrix: np.ndarray, classes: Sequence[str]) -> str:
    """For a terminal: the whole matrix, or the commonest mistakes where there are more than `WIDEST` classes."""
    if len(classes) <= WIDEST:
        right = np.diag(matrix) / np.maximum(matrix.sum(axis=1), 1)
        rows = [
            (name, *(str(count) if count else "·" for count in row), f"{100 * share:.1f} %")
            for name, row, share in zip(classes, matrix, right, strict=True)
        ]
        return table(("true \\ answer", *classes, "right"), rows)
    pairs = most_confused(matrix, WIDEST)
    return table(("true", "answer", "images"), [(classes[t], classes[a], str(n)) for t, a, n in pairs])
