"""The figures of a run's report: how good the network is, which mistakes it makes, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from msgspec import Struct

from ffruntime.core.architecture import Network, class_goodness, named_ops, unit_name, unit_shapes
from ffruntime.core.calibration import Calibration, probabilities
from ffruntime.core.cost import (
    constant_macs,
    goodness_macs,
    head_macs,
    layer_macs,
    pass_macs,
    readout_macs,
    unit_macs,
)
from ffruntime.core.errors import BundleError
from ffruntime.core.layers import HEAD, Tensor, head_parameters, unit_parameters
from ffruntime.core.learning import CrossEntropy
from ffruntime.core.manifest import WEIGHTS, Manifest
from ffruntime.core.tables import inputs_text

from .calibration import fit
from .dataset import Dataset
from .drawing import png, to_picture
from .evaluation import Measured, Scores, measure
from .recipe import Recipe
from .training import trained_parts

MISTAKES = 24


class Part(Struct, frozen=True):
    """What one unit, or the linear classifier, is and costs; `macs` are for one image and one label."""

    name: str
    operations: str
    output: tuple[int, ...]
    parameters: int
    macs: int


class Cost(Struct, frozen=True):
    """What a run cost. Multiply-accumulates are counted, not measured; a time of 0 is an untrained network's."""

    parts: tuple[Part, ...]
    macs_per_image: dict[str, int]  # of inference, by mode
    training_macs_per_image: int  # once
    training_flop: int  # altogether: two for each multiply-accumulate
    seconds: float
    images_per_second: float


class Mistake(Struct, frozen=True):
    """A validation image that was classified wrongly: its index in that split, itself, and each mode's answer."""

    index: int
    png: bytes
    true: str
    answers: dict[str, tuple[str, float]]  # mode -> class, probability


class Figures(Struct, frozen=True):
    """`model.ff.report.json`. `weights` is the SHA-256 of the weights that it is about."""

    weights: str
    offline_sample: bool
    classes: tuple[str, ...]
    images: dict[str, int]  # of each split
    measured: dict[str, dict[str, Measured]]  # split -> mode
    mistakes: tuple[Mistake, ...]
    cost: Cost


def collect(
    manifest: Manifest, dataset: Dataset, scores: dict[str, Scores], distances: Mapping[str, np.ndarray]
) -> Figures:
    """All figures of a report, from scores and, where there are any, distances to the nearest class, by split; of
    the test images only counts."""
    splits = {name: getattr(dataset, name) for name in scores}
    measured: dict[str, dict[str, Measured]] = {}
    mistakes: tuple[Mistake, ...] = ()
    if scores:
        labels = dataset.validation.labels.cpu().numpy()
        known = manifest.calibration or fit(scores["validation"], labels, manifest.logit_weight)
        measured = {
            name: measure(scores[name], split.labels, known, distances.get(name)) for name, split in splits.items()
        }
        mistakes = worst_mistakes(dataset, scores["validation"], known)
    return Figures(
        weights=manifest.files[WEIGHTS].sha256,
        offline_sample=dataset.source.offline_sample,
        classes=manifest.classes,
        images={name: len(split.labels) for name, split in splits.items()},
        measured=measured,
        mistakes=mistakes,
        cost=count_cost(manifest),
    )


def worst_mistakes(dataset: Dataset, scores: Scores, known: Calibration) -> tuple[Mistake, ...]:
    """The validation images that the first mode got wrong and was most sure of."""
    split, classes = dataset.validation, dataset.classes
    labels = split.labels.cpu().numpy()
    sure = {mode: probabilities(rows, known.scores[mode].temperature).max(1) for mode, rows in scores.items()}
    answers = {mode: rows.argmax(1) for mode, rows in scores.items()}
    first = next(iter(scores))
    wrong = np.flatnonzero(answers[first] != labels)
    chosen = wrong[np.argsort(-sure[first][wrong], kind="stable")][:MISTAKES]
    return tuple(
        Mistake(
            index=int(index),
            png=png(to_picture(split.pixels[index].cpu().numpy())),
            true=classes[labels[index]],
            answers={m: (classes[answers[m][index]], round(float(sure[m][index]), 4)) for m in scores},
        )
        for index in chosen
    )


def count_cost(manifest: Manifest) -> Cost:
    """Parameters, arithmetic and time. Raises `BundleError` where the recipe is none that this program knows."""
    network, training = manifest.network, manifest.training
    try:
        recipe = msgspec.convert(training.recipe, Recipe)
    except msgspec.ValidationError as error:
        raise BundleError(f"manifest: its recipe cannot be read: {error}") from error
    parts = [
        Part(
            unit_name(index),
            " → ".join((*inputs_text(unit), *(name for name, _ in named_ops(unit)))),
            above,
            _count(unit_parameters(network, index)),
            macs,
        )
        for index, (unit, (_, above), macs) in enumerate(
            zip(network.units, unit_shapes(network), unit_macs(network), strict=True)
        )
    ]
    by_mode = {"goodness": goodness_macs(network, len(manifest.classes))}
    if "classifier" in manifest.modes:
        trained = _count(head_parameters(network))
        parts.append(Part("classifier", "linear", (network.label.patterns,), trained, head_macs(network)))
        by_mode["classifier"] = pass_macs(network) + head_macs(network)
    seen = training.data.train * training.epochs
    if training.steps is not None:
        seen = training.steps * recipe.schedule.batch
    once = training_macs(recipe, network)
    return Cost(
        parts=tuple(parts),
        macs_per_image={mode: by_mode[mode] for mode in manifest.modes},
        training_macs_per_image=once,
        training_flop=2 * once * seen,
        seconds=training.seconds,
        images_per_second=round(seen / training.seconds, 1) if training.seconds else 0.0,
    )


def _count(parameters: Sequence[Tensor]) -> int:
    return sum(math.prod(tensor.shape) for tensor in parameters)


def training_macs(recipe: Recipe, network: Network) -> int:
    """Multiply-accumulates of training on one image once: convolutions and matrix products, no optimizer.

    By Forward-Forward: a pass for the image with its right label and with each wrong one, and of each, gradients of
    the trained weights and, within a unit of several layers, of their inputs; where gradients cross units, of the
    inputs of every layer but the first. The linear classifier takes one more pass, but not where images have no
    labels, and negatives that are chosen by goodness one for every pattern. Where units are trained one after the
    other, it is the mean over the training. A recurrent network does so in every step, after one pass from below;
    its inputs count as of one layer each, and what no step changes once: of the image, and of each of its labels.
    """
    if class_goodness(network):
        return _class_macs(recipe, network)
    units, head = layer_macs(network), head_macs(network)
    forward = sum(map(sum, units))
    parts = trained_parts(recipe, network)
    trained = [layers for index, layers in enumerate(units) if unit_name(index) in parts]
    if isinstance(recipe.loss, CrossEntropy):
        return forward + head + _gradients([*trained, (head,)])
    if recipe.gradient == "crossing":
        gradients = _gradients(trained)
    else:
        gradients = sum(_gradients([layers]) for layers in trained) // _turns(recipe, trained)
    own_pass = 0 if recipe.negatives.source == "hybrid" else pass_macs(network)
    classifier = own_pass + 2 * head if HEAD in parts else 0
    chosen = recipe.negatives.hard > 0 and recipe.negatives.source == "goodness"
    choice = goodness_macs(network, network.label.patterns) if chosen else 0
    if network.steps:
        (image, label), copies = constant_macs(network), 1 + recipe.negatives.count
        first, last = unit_name(0) in parts, unit_name(len(units) - 1) in parts
        once = (1 + first) * image + copies * (1 + last) * label
        changing = forward - image - label + sum(map(sum, trained)) - first * image - last * label
        return copies * network.steps.count * changing + once + pass_macs(network) + classifier + choice
    return (1 + recipe.negatives.count) * (forward + gradients) + classifier + choice


def _class_macs(recipe: Recipe, network: Network) -> int:
    """The same with class goodness: one pass, and gradients within each trained unit, its readout included. By
    backpropagation, through all layers up to the last scored unit's readout, and no other readout."""
    units, readouts = layer_macs(network), [readout_macs(network, index) for index in range(len(network.units))]
    parts = trained_parts(recipe, network)
    if isinstance(recipe.loss, CrossEntropy):
        below, last = units[: len(parts)], (readouts[len(parts) - 1],)
        return sum(map(sum, [*below, last])) + _gradients([*below, last])
    own = [(*layers, readout) for layers, readout in zip(units, readouts, strict=True)]
    trained = [layers for index, layers in enumerate(own) if unit_name(index) in parts]
    return sum(map(sum, own)) + sum(_gradients([layers]) for layers in trained) // _turns(recipe, trained)


def _turns(recipe: Recipe, trained: Sequence[object]) -> int:
    """How many of the trained units take turns, each for the same share of the training."""
    return len(trained) if recipe.schedule.order == "sequential" else 1


def _gradients(units: list[tuple[int, ...]]) -> int:
    """Gradients through layers that follow each other: of all weights, and of all inputs but the first layer's."""
    layers = [macs for unit in units for macs in unit]
    return sum(layers) + sum(layers[1:])
