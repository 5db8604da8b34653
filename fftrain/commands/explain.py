"""`fftrain explain`: which pixels of an image speak for a class, or which ones accuracy rests on."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from ffruntime.command import Count, echo
from ffruntime.core.errors import UsageError, unknown

from ..display import say
from .shared import data_option, import_torch

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ffruntime.core.bundle import Bundle

    from ..activation_maps import UnitMap
    from ..drawing import Explained

EPILOG = """\b
Examples:
  fftrain explain model.ff three.png             -> three.cam.png: the answer, and the runner-up
  fftrain explain model.ff three.png --label 8   what speaks for an 8?
  fftrain explain model.ff --method ads          -> model.ads.png: what accuracy on validation images rests on

\b
Exit codes: 0 done, 1 other errors and missing packages, 2 usage, 3 damaged bundle, 4 image, 5 data set,
8 cannot write."""


@click.command(epilog=EPILOG)
@click.argument("model", metavar="MODEL")
@click.argument("image", metavar="[IMAGE]", required=False)
@click.option("--label", metavar="CLASS", help="The class to explain; default: the answer.")
@click.option(
    "--out",
    metavar="FILE.png",
    help="The picture to write; default: IMAGE's name with .cam.png, or MODEL's with .ads.png.",
)
@click.option(
    "--method",
    type=click.Choice(["cam", "ads"]),
    default="cam",
    show_default=True,
    help="cam: class activation maps of the linear classifier, or of the units' readouts, for IMAGE. ads: "
    "accuracy-differential saliency, by "
    "hiding pixels of validation images.",
)
@click.option("--window", type=Count(1), default=5, show_default=True, help="Pixels a side that are hidden.")
@click.option("--images", "count", type=Count(1), default=100, show_default=True, help="How many, at most.")
@click.option("--mode", type=click.Choice(["goodness", "classifier"]), help="Of ads; default: the model's best.")
@data_option
@click.option("--no-preprocess", is_flag=True, help="The image is ready: right size, light on dark, centred.")
@click.option("--json", "as_json", is_flag=True, help="Print maps and figures as JSON.")
def explain(
    model: str,
    image: str | None,
    label: str | None,
    out: str | None,
    method: str,
    window: int,
    count: int,
    mode: str | None,
    data: str | None,
    no_preprocess: bool,
    as_json: bool,
) -> None:
    """Draw which pixels of IMAGE speak for a class (orange) and which against it (purple).

    For every scored unit, and for the units together; a second class stands below for contrast. With --method ads,
    draw instead how much accuracy on validation images is lost with the pixels around each place hidden.
    """
    if method == "ads":
        if image or label:
            raise UsageError("--method ads looks at many images of every class: leave out IMAGE and --label")
        accuracy_differential(model, window, count, mode, data, out, as_json)
    elif not image:
        raise UsageError("--method cam explains one image: which one?")
    else:
        class_activation(model, image, label, out, no_preprocess, as_json)


def accuracy_differential(
    model: str, window: int, count: int, mode: str | None, data: str | None, out: str | None, as_json: bool
) -> None:
    """Accuracy-differential saliency of a bundle, over the first validation images."""
    torch = import_torch()
    from ffruntime.core.bundle import Bundle
    from ffruntime.saliency import explain_accuracy, steps, write

    from ..dataset import load_for_manifest
    from ..evaluation import SCORES, load_tensors

    bundle = Bundle(model)
    manifest = bundle.manifest
    chosen = mode or manifest.modes[0]
    if chosen not in manifest.modes:
        raise unknown("mode", chosen, manifest.modes)
    network, tensors = manifest.network, load_tensors(bundle, torch.device("cpu"))
    validation = load_for_manifest(manifest, data).validation
    images, labels = (x[:count].numpy() for x in (validation.pixels, validation.labels))
    target = Path(out) if out else Path(f"{bundle.path.stem}.ads.png")

    def predict(x: np.ndarray) -> np.ndarray:
        scores: np.ndarray = SCORES[chosen](network, tensors, torch.from_numpy(x), len(manifest.classes)).numpy()
        return scores

    with click.progressbar(length=steps(images), label=f"{len(images)} images", file=sys.stderr) as bar:
        explained = explain_accuracy(predict, images, labels, manifest.classes, window, partial(bar.update, 1))
    echo(write(explained, len(images), chosen, window, target, as_json))


def class_activation(
    model: str, image: str, label: str | None, out: str | None, no_preprocess: bool, as_json: bool
) -> None:
    """Class activation maps of one image."""
    torch = import_torch()
    from ffruntime.core.architecture import class_goodness
    from ffruntime.core.bundle import Bundle
    from ffruntime.core.durable import write_atomically
    from ffruntime.model import Model

    from ..drawing import explanation_png
    from ..evaluation import load_tensors

    bundle = Bundle(model)
    runtime = Model(bundle, state=False)  # reads the picture; its weights are read below
    manifest = bundle.manifest
    network, classes = manifest.network, manifest.classes
    of_classes = class_goodness(network)
    if not of_classes and "classifier" not in manifest.modes:
        raise UsageError(f"{model}: was trained without a linear classifier, which class activation maps read")
    if label is not None and label not in classes:
        raise unknown("class", label, classes)
    pixels = runtime.read(image, not no_preprocess)
    tensors = load_tensors(bundle, torch.device("cpu"))
    target = Path(out) if out else Path(f"{'standard-input' if image == '-' else Path(image).stem}.cam.png")
    asked, find = None if label is None else classes.index(label), _by_readouts if of_classes else _by_classifier
    found = find(bundle, tensors, pixels, asked)
    flat = [unit for unit, drawn in found.maps.items() if not drawn]
    if len(flat) == len(found.maps):
        raise UsageError(f"{model}: {', '.join(flat)}: no scored unit has pixels, so there is no map to draw")
    write_atomically(target, explanation_png(pixels, found.rows))
    if as_json:
        result = {"image": image, "answer": found.answer, "labels": found.as_json, "picture": str(target)}
        echo(json.dumps(result))
        return
    for line in found.lines:
        echo(line)
    if flat:
        say(f"{', '.join(flat)}: no pixels after a linear layer, so no map; what they add stands in the sums")
    echo(f"{target} written")


class Found(Struct, frozen=True):
    """What an explanation of an image says: the answer; of each label explained a row of the picture, a line, and
    what JSON has; of each scored unit, whether it has a map."""

    answer: str
    rows: list[Explained]
    lines: list[str]
    as_json: dict[str, Any]
    maps: dict[str, bool]


def _by_classifier(bundle: Bundle, tensors: dict[str, Tensor], pixels: np.ndarray, asked: int | None) -> Found:
    """By the linear classifier: class activation maps of each scored unit's features."""
    import torch

    from ffruntime.core.layers import HEAD

    from ..activation_maps import class_activation_maps
    from ..evaluation import classifier_scores
    from ..network import to_images

    network, classes = bundle.manifest.network, bundle.manifest.classes
    images, biases = torch.tensor(pixels)[None], tensors[f"{HEAD}.bias"]
    logits = classifier_scores(network, tensors, images, len(classes))[0]
    standardised = to_images(images, network, torch.float32)
    maps = {i: class_activation_maps(network, tensors, standardised, i) for i in _two_labels(logits, asked)}
    told = [(classes[index], float(logits[index]), float(biases[index]), found) for index, found in maps.items()]
    return Found(
        classes[int(logits.argmax())],
        [_row(name, logit, found, pixels.shape[1:]) for name, logit, _, found in told],
        [_line(name, logit, bias, found) for name, logit, bias, found in told],
        {name: _json(logit, bias, found) for name, logit, bias, found in told},
        {m.unit: m.map is not None for m in told[0][3]},
    )


def _by_readouts(bundle: Bundle, tensors: dict[str, Tensor], pixels: np.ndarray, asked: int | None) -> Found:
    """By the units' own readouts, with class goodness: exact maps, as a device draws them."""
    import torch

    from ffruntime.class_maps import to_json, to_lines, together

    from ..activation_maps import readout_maps
    from ..drawing import Explained, signed
    from ..evaluation import goodness_scores
    from ..network import to_images

    network, classes = bundle.manifest.network, bundle.manifest.classes
    images = torch.tensor(pixels)[None]
    total = goodness_scores(network, tensors, images, len(classes))[0]
    chosen, rows = _two_labels(total, asked), []
    maps = readout_maps(network, tensors, to_images(images, network, torch.float32), chosen)
    for index, found in maps.items():
        drawn = {one.unit: one.on_image for one in found if one.on_image is not None}
        if len(drawn) > 1:
            drawn["together"] = together(found)
        sums = {title: float(values.sum()) for title, values in drawn.items()}
        rows.append(Explained(classes[index], f"goodness {signed(float(total[index]))}", drawn, sums))
    named = {classes[index]: found for index, found in maps.items()}
    as_json = {
        name: {"goodness": float(total[classes.index(name)]), "units": to_json(of)} for name, of in named.items()
    }
    has_map = {one.unit: one.map is not None for one in maps[chosen[0]]}
    return Found(classes[int(total.argmax())], rows, to_lines(named), as_json, has_map)


def _two_labels(scores: Tensor, asked: int | None) -> list[int]:
    """The label to explain and one for contrast: the best of the others."""
    order = scores.argsort(descending=True).tolist()
    first = order[0] if asked is None else asked
    return [first, *[index for index in order if index != first][:1]]


def _row(name: str, logit: float, maps: list[UnitMap], size: tuple[int, ...]) -> Explained:
    from ..activation_maps import on_image, together
    from ..drawing import Explained, signed

    spatial = [m for m in maps if m.map is not None]
    drawn = {m.unit: on_image(m, *size)[0].numpy() for m in spatial}
    totals = {m.unit: float(m.total) for m in spatial}
    if len(spatial) > 1:
        drawn["together"] = together(maps, *size)[0].numpy()
        totals["together"] = sum(totals.values())
    return Explained(name, f"logit {signed(logit)}", drawn, totals)


def _json(logit: float, bias: float, maps: list[UnitMap]) -> dict[str, Any]:
    units = {m.unit: {"total": float(m.total), "map": None if m.map is None else m.map[0].tolist()} for m in maps}
    return {"logit": logit, "bias": bias, "units": units}


def _line(name: str, logit: float, bias: float, maps: list[UnitMap]) -> str:
    parts = "".join(f" {'−' if m.total < 0 else '+'} {abs(float(m.total)):.3f} {m.unit}" for m in maps)
    return f"{name}: logit {logit:.3f} = {bias:.3f} bias{parts}"
