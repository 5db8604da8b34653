"""The report of a run: its figures as JSON and a page that shows them, beside the bundle."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from ffruntime.core.architecture import named_ops, unit_name, unit_shapes
from ffruntime.core.cost import goodness_macs, head_macs, pass_macs, unit_macs
from ffruntime.core.durable import write_atomically
from ffruntime.core.errors import BundleError, MissingExtra
from ffruntime.core.layers import tensor_shapes
from ffruntime.core.manifest import WEIGHTS, Manifest
from ffruntime.core.tables import inputs_text
from ffruntime.core.transition import read_manifest, read_weights

from .arithmetic import training_macs
from .calibration import confidences
from .data import Dataset
from .evaluate import Measured, Scores, measure, temperatures
from .recipe import Recipe

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
    answers: dict[str, tuple[str, float]]  # mode -> class, confidence


class Figures(Struct, frozen=True):
    """`model.ff.report.json`. `weights` is the SHA-256 of the weights that it is about."""

    weights: str
    offline_sample: bool
    classes: tuple[str, ...]
    images: dict[str, int]  # of each split
    measured: dict[str, dict[str, Measured]]  # split -> mode
    mistakes: tuple[Mistake, ...]
    cost: Cost


def report_paths(bundle: Path) -> tuple[Path, Path]:
    """Where the page and the figures of a bundle lie."""
    return bundle.with_name(f"{bundle.name}.report.html"), bundle.with_name(f"{bundle.name}.report.json")


def write_report(bundle: Path, dataset: Dataset, scores: dict[str, Scores]) -> Path:
    """Write figures and page beside a bundle that is complete; return the page's path.

    `scores` are those that the final evaluation made, by split; none for an untrained network. Raises
    `StorageError`, `MissingExtra`.
    """
    manifest = read_manifest(bundle)
    figures = collect(manifest, dataset, scores)
    page, json = report_paths(bundle)
    write_atomically(json, msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")
    write_page(page, bundle, manifest, figures)
    return page


def write_page(page: Path, bundle: Path, manifest: Manifest, figures: Figures) -> None:
    """Draw the page from the bundle and the figures. Raises `StorageError`, `MissingExtra`."""
    try:
        from .page import render
    except ImportError as error:
        raise MissingExtra(error.name or "matplotlib", "train") from error
    write_atomically(page, render(bundle.name, manifest, read_weights(bundle, manifest), figures).encode())


def rewrite_page(bundle: Path, page: Path | None) -> Path:
    """Draw the page again from a bundle and the figures beside it. Raises `BundleError` where they do not match."""
    manifest = read_manifest(bundle)
    default, json = report_paths(bundle)
    try:
        figures = msgspec.json.decode(json.read_bytes(), type=Figures)
    except FileNotFoundError as error:
        raise BundleError(f"{json}: missing; a training run writes it beside its bundle") from error
    except OSError as error:
        raise BundleError(f"{json}: cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{json}: damaged: {error}") from error
    if figures.weights != manifest.files[WEIGHTS].sha256:
        raise BundleError(f"{json}: is about other weights than those of {bundle}")
    write_page(page or default, bundle, manifest, figures)
    return page or default


def collect(manifest: Manifest, dataset: Dataset, scores: dict[str, Scores]) -> Figures:
    """All figures of a report; of the test images only counts."""
    splits = {name: getattr(dataset, name) for name in scores}
    measured: dict[str, dict[str, Measured]] = {}
    mistakes: tuple[Mistake, ...] = ()
    if scores:
        fitted = temperatures(scores["validation"], dataset.validation.labels)
        measured = {name: measure(scores[name], split.labels, fitted) for name, split in splits.items()}
        mistakes = worst_mistakes(dataset, scores["validation"], fitted)
    return Figures(
        weights=manifest.files[WEIGHTS].sha256,
        offline_sample=dataset.source.offline_sample,
        classes=manifest.classes,
        images={name: len(split.labels) for name, split in splits.items()},
        measured=measured,
        mistakes=mistakes,
        cost=count_cost(manifest),
    )


def worst_mistakes(dataset: Dataset, scores: Scores, fitted: dict[str, float]) -> tuple[Mistake, ...]:
    """The validation images that the first mode got wrong and was most sure of."""
    from .plots import png, to_picture

    split, classes = dataset.validation, dataset.classes
    labels = split.labels.cpu().numpy()
    sure = {mode: confidences(rows, fitted[mode]).max(1) for mode, rows in scores.items()}
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
    sizes = {name: math.prod(shape) for name, shape in tensor_shapes(network).items()}

    def parameters(part: str) -> int:
        return sum(n for name, n in sizes.items() if name.startswith(part) and name.endswith(("weight", "bias")))

    parts = [
        Part(
            unit_name(index),
            " → ".join((*inputs_text(unit), *(name for name, _ in named_ops(unit)))),
            above,
            parameters(f"{unit_name(index)}."),
            macs,
        )
        for index, (unit, (_, above), macs) in enumerate(
            zip(network.units, unit_shapes(network), unit_macs(network), strict=True)
        )
    ]
    head = Part("classifier", "linear", (network.label.patterns,), parameters("head."), head_macs(network))
    by_mode = {
        "goodness": goodness_macs(network, len(manifest.classes)),
        "classifier": pass_macs(network) + head.macs,
    }
    seen = training.data.train * training.epochs
    once = training_macs(recipe, network)
    return Cost(
        parts=(*parts, head) if "classifier" in manifest.modes else tuple(parts),
        macs_per_image={mode: by_mode[mode] for mode in manifest.modes},
        training_macs_per_image=once,
        training_flop=2 * once * seen,
        seconds=training.seconds,
        images_per_second=round(seen / training.seconds, 1) if training.seconds else 0.0,
    )
