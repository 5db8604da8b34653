"""`ffruntime explain`: which pixels a network's answers rest on, over many images."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import RunOptions, budget_options, json_option, running_options, within

if TYPE_CHECKING:
    from ..core.data import Examples
    from ..model import Model

EPILOG = """\b
Examples:
  ffruntime explain                      over the bundle's exemplars -> model.ads.png
  ffruntime explain photos --window 3    over photos/CLASS/pictures
  ffruntime explain --mode classifier    one pass for an image instead of one for every class

\b
Exit codes: 0 done, 1 other errors and missing packages, 2 usage, 3 bundle, 4 image, 5 data set, 6 backend,
8 cannot write, 9 learned state."""


@click.command(epilog=EPILOG)
@click.argument("folder", required=False, metavar="[DIR]", type=click.Path(path_type=Path))
@running_options
@click.option(
    "--window", type=click.IntRange(min=1), default=5, show_default=True, help="Pixels a side that are hidden."
)
@click.option(
    "--images", "count", type=click.IntRange(min=1), default=100, show_default=True, help="How many, at most."
)
@click.option("--mode", help="goodness, classifier or shortlist; default: the model's best.")
@click.option("--no-preprocess", is_flag=True, help="The images are ready: as the network was trained on.")
@click.option("--out", metavar="FILE.png", type=click.Path(path_type=Path), help="Default: model.ads.png.")
@budget_options
@json_option
def explain(
    options: RunOptions,
    folder: Path | None,
    window: int,
    count: int,
    mode: str | None,
    no_preprocess: bool,
    out: Path | None,
    device: str | None,
    memory: int | None,
    as_json: bool,
) -> None:
    """Draw what accuracy rests on: how much of it is lost with the pixels around each place hidden.

    Over the bundle's exemplars, or the pictures in DIR/CLASS. This is accuracy-differential saliency: no gradient.
    """
    from ..saliency import explain_accuracy, steps, write

    model = options.model()
    chosen = model.mode(mode)
    model, budget = within(model, chosen, device, memory)
    if folder:
        examples = _pictures(model, folder, count, not no_preprocess, budget.picture)
    else:
        examples = _exemplars(model, count)
    images, labels = examples.pixels, examples.labels
    predict, target = partial(model.scores, mode=chosen), out or Path(f"{model.path.stem}.ads.png")
    with click.progressbar(length=steps(images), label=f"{len(images)} images", file=sys.stderr) as bar:
        explained = explain_accuracy(predict, images, labels, model.classes, window, partial(bar.update, 1))
    click.echo(write(explained, len(images), chosen, window, target, as_json))


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
    from ..sources import is_picture

    found = []
    for label, name in enumerate(model.classes):
        files = sorted(file for file in (folder / name).glob("*") if is_picture(file))
        found += [(turn, label, file) for turn, file in enumerate(files)]
    if not found:
        raise DataError(f"{folder}: no pictures in folders named like classes, such as {folder / model.classes[0]}")
    chosen = sorted(found)[:count]
    images = np.stack([model.read(str(file), preprocess, memory_limit) for *_, file in chosen])
    return Examples(images, np.array([label for _, label, _ in chosen]))
