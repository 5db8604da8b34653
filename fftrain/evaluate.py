"""What a network says of a split, in every inference mode, and how good that is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from msgspec import Struct
from torch import Tensor

from ffruntime.core.architecture import Network
from ffruntime.core.data import Examples
from ffruntime.core.manifest import Manifest
from ffruntime.core.transition import read_weights

from . import network as net
from .calibration import Bin, confidences, expected_calibration_error, fit_temperature, reliability
from .confusion import confusion_matrix
from .operations import Tensors

MODES = ("goodness", "classifier")
PASSES = 2_000  # images with a label that go through the network at once
IMAGES = 200  # that are looked at between reports

Scores = dict[str, np.ndarray]  # inference mode -> score of every class, (N, classes)


class Measured(Struct, frozen=True):
    """How one mode did on one split. `confusion` counts images, a row for each right class."""

    accuracy: float
    temperature: float  # fitted on the validation images
    calibration_error: float  # expected calibration error, of 15 bins
    reliability: tuple[Bin, ...]
    confusion: tuple[tuple[int, ...], ...]


def load_tensors(path: Path, manifest: Manifest, device: torch.device) -> Tensors:
    """The weights of the bundle at `path`, for torch. Raises `BundleError` where they are not the manifest's."""
    return {name: torch.tensor(array, device=device) for name, array in read_weights(path, manifest).items()}


@torch.no_grad()
def goodness_scores(
    network: Network, tensors: Tensors, pixels: Tensor, classes: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Total goodness of every class: pixels uint8 (N, C, H, W) -> (N, classes)."""
    labels = torch.arange(classes, device=pixels.device)
    rows = []
    for part in pixels.split(max(1, PASSES // classes)):
        goodness = net.label_goodness(network, tensors, net.to_images(part, network, dtype), labels)
        rows.append(net.total_goodness(network, goodness))
    return torch.cat(rows)


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


def passes(images: int, classes: int, modes: tuple[str, ...]) -> int:
    """Passes through the network that `predict` makes: one for each label by goodness, one by the classifier."""
    return images * sum(classes if mode == "goodness" else 1 for mode in modes)


def predict(
    network: Network,
    tensors: Tensors,
    split: Examples,
    classes: int,
    dtype: torch.dtype = torch.float32,
    modes: tuple[str, ...] = MODES,
    advance: Callable[[int], object] = lambda _: None,
) -> Scores:
    """Score of every class for every image of a split, by mode; `advance` is told of passes as they are made."""
    result = {}
    for mode in modes:
        rows = []
        for part in split.pixels.split(IMAGES):
            rows.append(SCORES[mode](network, tensors, part, classes, dtype).cpu().numpy())
            advance(passes(len(part), classes, (mode,)))
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
    modes: tuple[str, ...] = MODES,
) -> dict[str, float]:
    """Share of right answers by inference mode."""
    return accuracies(predict(network, tensors, split, classes, dtype, modes), split.labels)


def temperatures(scores: Scores, labels: Tensor) -> dict[str, float]:
    """Temperature by mode (`fit_temperature`), from the validation images' scores and labels (N,)."""
    return {mode: fit_temperature(rows, labels.cpu().numpy()) for mode, rows in scores.items()}


def measure(scores: Scores, labels: Tensor, fitted: Mapping[str, float]) -> dict[str, Measured]:
    """How each mode did on the images whose scores and labels (N,) are given, at the temperatures fitted before."""
    right, result = labels.cpu().numpy(), {}
    for mode, rows in scores.items():
        answers = rows.argmax(1)
        bins = reliability(confidences(rows, fitted[mode]).max(1), answers == right)
        result[mode] = Measured(
            accuracy=float((answers == right).mean()),
            temperature=fitted[mode],
            calibration_error=expected_calibration_error(bins),
            reliability=bins,
            confusion=tuple(map(tuple, confusion_matrix(right, answers, rows.shape[1]).tolist())),
        )
    return result
