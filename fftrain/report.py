"""A run's report beside its bundle: the figures as JSON, and one self-contained page that shows them."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from ffruntime.core.architecture import Conv, Network, embedded_shape, unit_name
from ffruntime.core.bundle import Bundle
from ffruntime.core.durable import write_atomically
from ffruntime.core.errors import BundleError
from ffruntime.core.layers import unit_parameters
from ffruntime.core.manifest import WEIGHTS, Manifest, Training
from ffruntime.core.reading import decode_json, read_regular

from .dataset import Dataset
from .display import duration, percent
from .drawing import confusion_png, curves_svg, grey_png, mosaic, reliability_svg, signed_png
from .evaluation import WIDEST, Scores, most_confused
from .figures import Figures, collect

PAIRS = 8  # of the most confused classes, for each mode
LARGEST = 256 << 20  # bytes of the figures' file
PATTERNS = 48  # that are drawn, and filters
FILTERS = 64


def report_paths(bundle: Path) -> tuple[Path, Path]:
    """Where the page and the figures of a bundle lie."""
    return bundle.with_name(f"{bundle.name}.report.html"), bundle.with_name(f"{bundle.name}.report.json")


def write_report(
    bundle: Path, dataset: Dataset, scores: dict[str, Scores], distances: Mapping[str, np.ndarray]
) -> Path:
    """Write figures and page beside the bundle at that path, which is complete; return the page's path.

    `scores` are those that the final evaluation made, by split, and `distances` those to the nearest class, where
    there are class statistics; none for an untrained network. Raises `StorageError`.
    """
    opened = Bundle(bundle)
    figures = collect(opened.manifest, dataset, scores, distances)
    page, file = report_paths(bundle)
    write_atomically(file, msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")
    _write_page(page, opened, figures)
    return page


def rewrite_page(bundle: Path, page: Path | None) -> Path:
    """Draw the page again from a bundle and the figures beside it. Raises `BundleError` where they do not match."""
    opened = Bundle(bundle)
    default, file = report_paths(bundle)
    try:
        figures = decode_json(read_regular(file, LARGEST), Figures)
    except FileNotFoundError as error:
        raise BundleError(f"{file}: missing; a training run writes it beside its bundle") from error
    except OSError as error:
        raise BundleError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BundleError(f"{file}: damaged: {error}") from error
    if figures.weights != opened.manifest.files[WEIGHTS].sha256:
        raise BundleError(f"{file}: is about other weights than those of {bundle}")
    _write_page(page or default, opened, figures)
    return page or default


def _write_page(page: Path, bundle: Bundle, figures: Figures) -> None:
    write_atomically(page, render(bundle.path.name, bundle.manifest, bundle.weights(), figures).encode())


def render(title: str, manifest: Manifest, weights: dict[str, np.ndarray], figures: Figures) -> str:
    """The page as HTML. `weights` are the bundle's; nothing is loaded from elsewhere when it is read."""
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(percent=percent, duration=duration, si=si, png=data_uri)
    page: str = environment.get_template("report.html.jinja").render(
        title=title,
        manifest=manifest,
        training=manifest.training,
        figures=figures,
        cost=figures.cost,
        method=method(manifest.training.recipe),
        length=length(manifest.training),
        curves=curves(manifest),
        total=total(manifest),
        confusions=[confusion(figures, split, mode) for split, modes in figures.measured.items() for mode in modes],
        reliability={
            split: reliability_svg(f"reliability-{split}", split, {m: f.reliability for m, f in modes.items()})
            for split, modes in figures.measured.items()
        },
        patterns=patterns(manifest, weights),
        hidden_patterns=max(0, manifest.network.label.patterns - PATTERNS),
        filters=filters(manifest.network, weights),
        recipe=json.dumps(manifest.training.recipe, indent=2, ensure_ascii=False),
    )
    return page


def method(recipe: dict[str, Any]) -> str:
    """How the weights were learned, in words."""
    if recipe.get("loss", {}).get("kind") == "cross_entropy":
        return "backpropagation: the baseline"
    if recipe.get("loss", {}).get("kind") == "class":
        return (
            "layer-local classifiers: every unit by the cross-entropy of its own readout, without backpropagation"
        )
    if recipe.get("gradient") == "crossing":
        return "Forward-Forward, gradients crossing from unit to unit"
    return "Forward-Forward: every unit by its own loss, without backpropagation"


def length(training: Training) -> str:
    """How long it was trained, in words: `30 epochs`, or `8,420 steps` where the epochs were cut to those."""
    return f"{training.epochs} epochs" if training.steps is None else f"{training.steps:,} steps"


def si(number: float) -> str:
    """1234567 -> `1.23 M`."""
    for prefix in ("", "k", "M", "G", "T", "P", "E"):
        if number < 999.5 or prefix == "E":
            return f"{number:.3g} {prefix}".rstrip() if prefix or number % 1 else f"{number:.0f}"
        number /= 1000
    raise AssertionError


def data_uri(png: bytes) -> str:
    """A PNG file as the address of an image that lies in the page."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def total(manifest: Manifest) -> dict[str, Any] | None:
    """What the units weigh in the total of class goodness, and how it was chosen; None where it was not."""
    last = manifest.training.history[-1] if manifest.training.history else {}
    if "total" not in last:
        return None
    units = zip(last["total"]["weights"], last["unit_accuracy"], strict=True)
    told = [{"name": unit_name(k), "weight": weight, "accuracy": share} for k, (weight, share) in enumerate(units)]
    return {**last["total"], "units": told}


def curves(manifest: Manifest) -> list[str]:
    """Learning and discrimination curves as SVG; those that have no value are left out."""
    history = manifest.training.history
    units = [unit_name(index) for index in range(len(manifest.network.units))]

    def by_unit(figure: str) -> dict[str, list[float | None]]:
        rows = [row.get(figure) or [None] * len(units) for row in history]
        return {unit: [row[index] for row in rows] for index, unit in enumerate(units)}

    classifier = {"training loss": [row.get("classifier_loss") for row in history]}
    accuracy: dict[str, list[float | None]] = {
        mode: [row["validation"].get(mode) for row in history] for mode in manifest.modes
    }
    accuracy["classifier, on training images"] = [row.get("classifier_accuracy") for row in history]
    panels = (
        ("accuracy", "Accuracy on validation images", accuracy, True),
        ("discrimination", "Discrimination accuracy", by_unit("discrimination_accuracy"), True),
        ("units", "Accuracy of each unit on training images", by_unit("unit_accuracy"), True),
        ("loss", "Loss of each unit", by_unit("loss"), False),
        ("classifier", "Linear classifier, cross-entropy", classifier, False),
    )
    drawn = []
    for name, title, lines, shares in panels:
        known = {label: line for label, line in lines.items() if any(_is_number(value) for value in line)}
        if known:
            drawn.append(curves_svg(name, title, known, shares))
    return drawn


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def confusion(figures: Figures, split: str, mode: str) -> dict[str, Any]:
    """One confusion matrix: as a table with shades, or as a picture where there are many classes."""
    measured, classes = figures.measured[split][mode], figures.classes
    matrix = np.array(measured.confusion)
    pairs = [(classes[t], classes[a], n) for t, a, n in most_confused(matrix, PAIRS)]
    most = max((matrix - np.diag(np.diag(matrix))).max(), 1)
    small = len(classes) <= WIDEST
    return {
        "split": split,
        "mode": mode,
        "images": figures.images[split],
        "measured": measured,
        "pairs": pairs,
        "rows": zip(classes, matrix.tolist(), np.sqrt(matrix / most).tolist(), strict=True) if small else (),
        "picture": None if small else confusion_png(matrix),
    }


def patterns(manifest: Manifest, weights: dict[str, np.ndarray]) -> list[tuple[str, bytes]]:
    """The first label patterns, with their classes' names, the spare ones among them, and the neutral one; of
    labels that are vectors or have a readout's row, none."""
    if manifest.network.label.placement in ("top", "readout"):
        return []
    tensors = [*weights["labels.patterns"][:PATTERNS], weights["labels.neutral"]]
    spare = range(1, manifest.network.label.patterns - len(manifest.classes) + 1)
    names = [*manifest.classes, *(f"spare {number}" for number in spare)][:PATTERNS]
    return [
        (name, grey_png(tensor.mean(axis=0))) for name, tensor in zip([*names, "neutral"], tensors, strict=True)
    ]


def filters(network: Network, weights: dict[str, np.ndarray]) -> list[tuple[str, bytes]]:
    """What the first unit's first weights look for from below: a picture for every channel, `FILTERS` at most."""
    for tensor in unit_parameters(network, 0):
        layer = tensor.layer
        if layer is None or tensor.role != "weight" or not layer.from_below:
            continue
        weight, sides = weights[tensor.name], layer.before[1:]
        if isinstance(layer.op, Conv):
            sides = (layer.op.kernel, layer.op.kernel)
        channels = layer.before[0]
        tiles = weight.reshape(-1, channels, *sides)[:FILTERS]  # (out, C, h, w); of a local one, of every position
        most = float(np.abs(tiles).max())
        return [
            (channel, signed_png(mosaic(tiles[:, index]), most)) for index, channel in enumerate(_channels(network))
        ]
    return []


def _channels(network: Network) -> list[str]:
    colours = network.image.shape[0]
    names = ["red", "green", "blue"] if colours == 3 else [f"image {n}" for n in range(1, colours + 1)]
    if colours == 1:
        names = ["image"] if network.label.placement in ("channel", "top", "readout") else ["image with its label"]
    return [*names, *["label"] * (embedded_shape(network)[0] - colours)]
