"""How a precision decides: answers on images, right ones, and those that are fp32's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from msgspec import Struct

from ffruntime.core.architecture import Network
from ffruntime.core.cost import unit_macs
from ffruntime.core.data import Examples
from ffruntime.core.manifest import Precision
from ffruntime.model import Model

BUDGET = 2e11  # multiply-accumulates spent on a set of images in each mode: some seconds of a processor
CHUNK = 64  # images between two reports of progress
LOSS: Mapping[Precision, float] = {
    "fp32": 0.0,
    "fp16": 2e-4,
    "int8": 1e-3,
}  # share of right answers that may be lost
DISAGREE: Mapping[Precision, float] = {
    "fp32": 0.0,
    "fp16": 2e-3,
    "int8": 1e-2,
}  # share of decisions that may differ

Progress = Callable[[str, float], None]  # what is being done, and the share of it that is
Scores = dict[str, np.ndarray]  # inference mode -> (N, classes)


class Outcome(Struct, frozen=True):
    """Decisions on a set of images in one inference mode."""

    right: int
    agree: int  # with fp32
    images: int


def affordable(images: Examples, network: Network, classes: int) -> Examples:
    """As many of the images, from the first on, as `BUDGET` allows, at least 16."""
    count = max(16, int(BUDGET / (classes * sum(unit_macs(network)))))
    return Examples(images.pixels[:count], images.labels[:count])


def scores(model: Model, images: Examples, progress: Progress, what: str) -> Scores:
    """Scores of every image in every mode that the network was trained for."""
    modes, count = model.manifest.modes, len(images.labels)
    result: Scores = {}
    for turn, mode in enumerate(modes):
        rows = []
        for start in range(0, count, CHUNK):
            progress(f"{model.precision}: {what}", (turn + start / count) / len(modes))
            rows.append(model.scores(images.pixels[start : start + CHUNK], mode))
        result[mode] = np.concatenate(rows)
    return result


def compare(ours: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> Outcome:
    """Decisions by scores (N, classes), beside fp32's."""
    answers = ours.argmax(1)
    right, agree = int((answers == labels).sum()), int((answers == reference.argmax(1)).sum())
    return Outcome(right, agree, len(labels))


def faithful(ours: np.ndarray, reference: np.ndarray, labels: np.ndarray, precision: Precision) -> bool:
    """Whether decisions by scores (N, classes) keep to what the precision may lose.

    One lost answer is always borne: of some hundred exemplars it is more than the goal, and no evidence against it.
    """
    outcome, before = compare(ours, reference, labels), compare(reference, reference, labels)
    lost, differ = before.right - outcome.right, outcome.images - outcome.agree
    bearable = lost <= max(1, LOSS[precision] * outcome.images) and differ <= DISAGREE[precision] * outcome.images
    return bearable and bool(np.isfinite(ours).all())


def harm(ours: Scores, reference: Scores) -> float:
    """What a precision does to the differences between classes: its noise there as a share of their spread."""

    def centred(values: np.ndarray) -> np.ndarray:
        return values - values.mean(1, keepdims=True)

    noise = [
        float(np.std(centred(ours[mode] - expected)) / (np.std(centred(expected)) or 1.0))
        for mode, expected in reference.items()
    ]
    return max(noise) if np.isfinite(noise).all() else float("inf")
