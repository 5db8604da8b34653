"""`ffruntime explain`: which pixels a network's answers rest on, over many images; or which speak for a class."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..command import Count, echo
from .options import RunOptions, budget_options, json_option, running_options, within

if TYPE_CHECKING:
    from ..core.data import Examples
    from ..model import Model

EPILOG = """\b
Examples:
  ffruntime explain                      over the bundle's exemplars -> model.ads.png
  ffruntime explain photos --window 3    over photos/CLASS/pictures
  ffruntime explain --mode classifier    one pass for an image instead of one for every class
  ffruntime explain three.png            class goodness: what speaks for the answer and for the runner-up
  ffruntime explain three.png --label 8

\b
Exit codes: 0 done, 1 other errors and missing packages, 2 usage, 3 bundle, 4 image, 5 data set, 6 backend,
8 cannot write, 9 learned state."""


@click.command(epilog=EPILOG)
@click.argument("pictures", required=False, metavar="[DIR | IMAGE]", type=click.Path(path_type=Path))
@running_options
@click.option("--window", type=Count(1), default=5, show_default=True, help="Pixels a side that are hidden.")
@click.option("--images", "count", type=Count(1), default=100, show_default=True, help="How many, at most.")
@click.option("--label", metavar="CLASS", help="Of an IMAGE: the class to explain; default: the answer.")
@click.option("--mode", help="How the network answers; default: the model's best mode.")
@click.option("--no-preprocess", is_flag=True, help="The images are ready: as the network was trained on.")
@click.option(
    "--out",
    metavar="FILE.png",
    type=click.Path(path_type=Path),
    help="Default: model.ads.png; of an IMAGE, its name with .map.png.",
)
@budget_options
@json_option
def explain(
    options: RunOptions,
    pictures: Path | None,
    window: int,
    count: int,
    label: str | None,
    mode: str | None,
    no_preprocess: bool,
    out: Path | None,
    device: str | None,
    memory: int | None,
    as_json: bool,
) -> None:
    """Draw what accuracy rests on: how much of it is lost with the pixels around each place hidden.

    Over the bundle's exemplars, or the pictures in DIR/CLASS. This is accuracy-differential saliency: no gradient.

    Of one IMAGE, and a network with class goodness: draw which pixels speak for a class, in every scored unit. That
    map is exact: it adds up to the unit's goodness of the class.
    """
    if pictures and (str(pictures) == "-" or pictures.is_file()):
        _one_image(options.model(), str(pictures), label, out, not no_preprocess, as_json)
        return
    from ..core.errors import UsageError
    from ..saliency import explain_accuracy, steps, write

    if label:
        raise UsageError("--label: of which image?")
    model = options.model()
    chosen = model.mode(mode)
    model, budget = within(model, chosen, device, memory)
    if pictures:
        examples = _pictures(model, pictures, count, not no_preprocess, budget.picture)
    else:
        examples = _exemplars(model, count)
    images, labels = examples.pixels, examples.labels
    predict, target = partial(model.scores, mode=chosen), out or Path(f"{model.path.stem}.ads.png")
    with click.progressbar(length=steps(images), label=f"{len(images)} images", file=sys.stderr) as bar:
        explained = explain_accuracy(predict, images, labels, model.classes, window, partial(bar.update, 1))
    echo(write(explained, len(images), chosen, window, target, as_json))


def _one_image(
    model: Model, path: str, label: str | None, out: Path | None, preprocess: bool, as_json: bool
) -> None:
    """Maps of a class and of another one for contrast: the best of the others."""
    from ..class_maps import class_maps, picture, to_json, to_lines
    from ..core.architecture import class_goodness
    from ..core.durable import write_atomically
    from ..core.errors import UsageError, unknown

    if not class_goodness(model.manifest.network):
        raise UsageError(
            f"{model.path}: has no class goodness, so no exact map of one image; 'fftrain explain' draws one of "
            "its linear classifier"
        )
    if label is not None and label not in model.classes:
        raise unknown("class", label, model.classes)
    image = model.read(path, preprocess)
    (answer,) = model.classify_batch(image[None], "goodness")
    first, known = label or answer.label, [model.classes[row] for row in model.known]
    if first not in known:
        raise UsageError(
            f"'{first}' has no row in the readouts, so there is no map: class statistics alone tell it; "
            "'ffruntime learn --rehearse 150' gives it one"
        )
    names = [first, *[name for name in answer.scores if name != first and name in known][:1]]
    maps = class_maps(model, image, [model.classes.index(name) for name in names])
    explained = dict(zip(names, maps.values(), strict=True))
    if all(one.map is None for one in explained[first]):
        raise UsageError(f"{model.path}: no scored unit has pixels, so there is no map to draw")
    target = out or Path(f"{'standard-input' if path == '-' else Path(path).stem}.map.png")
    write_atomically(target, picture(image, explained))
    if as_json:
        labels = {name: {"goodness": answer.scores[name], "units": to_json(of)} for name, of in explained.items()}
        echo(json.dumps({"image": path, "answer": answer.label, "labels": labels, "picture": str(target)}))
        return
    echo("\n".join((*to_lines(explained), f"{target} written")))


def _exemplars(model: Model, count: int) -> Examples:
    """The bundle's first exemplars, in which classes take turns. Raises `BundleError` where it has none."""
    from ..core.manifest import EXEMPLARS

    model.bundle.entry(EXEMPLARS)
    return model.bundle.exemplars().take(slice(count))


def _pictures(model: Model, folder: Path, count: int, preprocess: bool, memory_limit: int | None) -> Examples:
    """Pictures in folders named like the model's classes, likewise by turns. Raises `DataError`, `ImageError`."""
    import numpy as np

    from ..core.data import Examples
    from ..core.errors import DataError
    from ..pictures.sources import is_picture

    found = []
    for label, name in enumerate(model.classes):
        files = sorted(file for file in (folder / name).glob("*") if is_picture(file))
        found += [(turn, label, file) for turn, file in enumerate(files)]
    if not found:
        raise DataError(f"{folder}: no pictures in folders named like classes, such as {folder / model.classes[0]}")
    chosen = sorted(found)[:count]
    images = np.stack([model.read(str(file), preprocess, memory_limit) for *_, file in chosen])
    return Examples(images, np.array([label for _, label, _ in chosen]))
