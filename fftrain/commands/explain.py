"""`fftrain explain`: which pixels of an image speak for a class, or which ones accuracy rests on."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ffruntime.core.errors import UsageError, unknown

from ..display import say
from .shared import data_option, import_torch

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

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
@click.option("--label", metavar="CLASS", help="The class to explain; default: the classifier's answer.")
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
    help="cam: class activation maps of the linear classifier, for IMAGE. ads: accuracy-differential saliency, by "
    "hiding pixels of validation images.",
)
@click.option(
    "--window", type=click.IntRange(min=1), default=5, show_default=True, help="Pixels a side that are hidden."
)
@click.option(
    "--images", "count", type=click.IntRange(min=1), default=100, show_default=True, help="How many, at most."
)
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
    click.echo(write(explained, len(images), chosen, window, target, as_json))


def class_activation(
    model: str, image: str, label: str | None, out: str | None, no_preprocess: bool, as_json: bool
) -> None:
    """Class activation maps of one image."""
    torch = import_torch()
    from ffruntime.core.bundle import Bundle
    from ffruntime.core.durable import write_atomically
    from ffruntime.model import Model

    from ..activation_maps import class_activation_maps
    from ..drawing import explanation_png
    from ..evaluation import classifier_scores, load_tensors
    from ..network import to_images

    bundle = Bundle(model)
    runtime = Model(bundle, state=False)  # reads the picture; its weights are read below
    manifest = bundle.manifest
    network, classes = manifest.network, manifest.classes
    if "classifier" not in manifest.modes:
        raise UsageError(f"{model}: was trained without a linear classifier, which class activation maps read")
    if label is not None and label not in classes:
        raise unknown("class", label, classes)
    pixels = runtime.read(image, not no_preprocess)
    tensors = load_tensors(bundle, torch.device("cpu"))
    images = torch.tensor(pixels)[None]
    logits = classifier_scores(network, tensors, images, len(classes))[0]
    chosen = _two_labels(logits, None if label is None else classes.index(label))
    standardised = to_images(images, network, torch.float32)
    maps = {index: class_activation_maps(network, tensors, standardised, index) for index in chosen}
    flat = [m.unit for m in maps[chosen[0]] if m.map is None]
    if len(flat) == len(maps[chosen[0]]):
        raise UsageError(f"{model}: {', '.join(flat)}: no scored unit has pixels, so there is no map to draw")
    target = Path(out) if out else Path(f"{'standard-input' if image == '-' else Path(image).stem}.cam.png")
    rows = [_row(classes[index], float(logits[index]), maps[index], pixels.shape[1:]) for index in chosen]
    write_atomically(target, explanation_png(pixels, rows))
    if as_json:
        result = {
            "image": image,
            "answer": classes[int(logits.argmax())],
            "labels": {
                classes[index]: _json(float(logits[index]), tensors, index, maps[index]) for index in chosen
            },
            "picture": str(target),
        }
        click.echo(json.dumps(result))
        return
    for index in chosen:
        click.echo(_line(classes[index], float(logits[index]), float(tensors["head.bias"][index]), maps[index]))
    if flat:
        say(f"{', '.join(flat)}: no pixels after a linear layer, so no map; what they add stands in the sums")
    click.echo(f"{target} written")


def _two_labels(logits: Tensor, asked: int | None) -> list[int]:
    """The label to explain and one for contrast: the best of the others."""
    order = logits.argsort(descending=True).tolist()
    first = order[0] if asked is None else asked
    return [first, *[index for index in order if index != first][:1]]


def _row(name: str, logit: float, maps: list[UnitMap], size: tuple[int, ...]) -> Explained:
    from ..activation_maps import on_image, together
    from ..drawing import Explained

    spatial = [m for m in maps if m.map is not None]
    drawn = {m.unit: on_image(m, *size)[0].numpy() for m in spatial}
    totals = {m.unit: float(m.total) for m in spatial}
    if len(spatial) > 1:
        drawn["together"] = together(maps, *size)[0].numpy()
        totals["together"] = sum(totals.values())
    return Explained(name, logit, drawn, totals)


def _json(logit: float, tensors: dict[str, Tensor], index: int, maps: list[UnitMap]) -> dict[str, Any]:
    units = {m.unit: {"total": float(m.total), "map": None if m.map is None else m.map[0].tolist()} for m in maps}
    return {"logit": logit, "bias": float(tensors["head.bias"][index]), "units": units}


def _line(name: str, logit: float, bias: float, maps: list[UnitMap]) -> str:
    parts = "".join(f" {'−' if m.total < 0 else '+'} {abs(float(m.total)):.3f} {m.unit}" for m in maps)
    return f"{name}: logit {logit:.3f} = {bias:.3f} bias{parts}"
