"""What a network says of a split, in every inference mode, and how good that is: accuracy, confusion, calibration.

Calibration compares confidence with accuracy: scores become probabilities, and those are held against how often
they are right: Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks (ICML 2017). All in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from msgspec import Struct
from torch import Tensor

from ffruntime.core.architecture import Network, class_goodness
from ffruntime.core.bundle import Bundle
from ffruntime.core.data import Examples
from ffruntime.core.manifest import TRAINED_MODES
from ffruntime.core.tables import table

from . import network as net
from .functional import Tensors

PASSES = 2_000  # images with a label that go through the network at once
IMAGES = 200  # that are looked at between reports
WIDEST = 20  # classes of a confusion matrix; a wider table fits no terminal
BINS = 15  # of confidence
BISECTIONS = 50  # each halves the interval of log T
COLDEST, HOTTEST = 1e-6, 1e6  # limits of T, in units of the mean distance of scores from their row's best

Scores = dict[str, np.ndarray]  # inference mode -> score of every class, (N, classes)


class Bin(Struct, frozen=True):
    """Answers whose confidence lies in one of the equal intervals of [0, 1]: means over `count` of them."""

    count: int
    confidence: float  # 0 where there are none
    accuracy: float


class Measured(Struct, frozen=True):
    """How one mode did on one split. `confusion` counts images, a row for each right class."""

    accuracy: float
    temperature: float  # fitted on the validation images
    calibration_error: float  # expected calibration error, of 15 bins
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


# Calibration


def confidences(scores: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(scores / T): (N, C) -> probabilities (N, C). Rows that hold no numbers become 1 / C each."""
    logits = _below_best(scores) / temperature
    shares = np.exp(logits)
    return shares / shares.sum(axis=1, keepdims=True)


def fit_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """The T > 0 that minimises the negative log-likelihood of `labels` (N,) under softmax(scores / T), (N, C).

    The likelihood is convex in 1 / T, so its slope, E_p[score] − score of the label, is bisected. Where it has no
    minimum (every answer right, or worse than chance) T is the nearest of two limits, and 1 where all scores of
    each image are equal.
    """
    logits = _below_best(scores)
    scale = -logits.mean()
    if not scale:
        return 1.0
    logits /= scale
    of_label = logits[np.arange(len(labels)), labels]
    low, high = np.log(1 / HOTTEST), np.log(1 / COLDEST)  # of 1 / T
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        expected = (confidences(logits, np.exp(-middle)) * logits).sum(axis=1)
        if (expected - of_label).mean() < 0:
            low = middle
        else:
            high = middle
    return float(scale * np.exp(-(low + high) / 2))


def _below_best(scores: np.ndarray) -> np.ndarray:
    """Scores less the best of their row, (N, C), at most 0; rows that hold no numbers become 0."""
    finite = np.isfinite(scores).all(axis=1, keepdims=True)
    logits = np.where(finite, scores, 0).astype(np.float64)
    return logits - logits.max(axis=1, keepdims=True)


def reliability(confidence: np.ndarray, right: np.ndarray) -> tuple[Bin, ...]:
    """Answers with their confidence (N,) in [0, 1], and whether they are right (N,), in `BINS` equal intervals.

    Interval m is ((m − 1) / M, m / M], as in Guo et al., section 2.
    """
    number = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    counts = np.bincount(number, minlength=BINS)
    some = np.maximum(counts, 1)
    sure = np.bincount(number, confidence, BINS) / some
    accurate = np.bincount(number, right, BINS) / some
    return tuple(Bin(*row) for row in zip(counts.tolist(), sure.tolist(), accurate.tolist(), strict=True))


def expected_calibration_error(bins: tuple[Bin, ...]) -> float:
    """Mean of |accuracy − confidence| over the bins, each weighed by its answers (Guo et al., equation 3)."""
    answers = sum(b.count for b in bins)
    return sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / max(answers, 1)


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
