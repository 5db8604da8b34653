"""`ffruntime explain`: which pixels a network's answers rest on, over many images."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from .common import Asked, budget_options, json_option, running_options, within

if TYPE_CHECKING:
    import numpy as np

    from ..core.plan import Use
    from ..model import Model
    from ..saliency import Predict

EPILOG = """\b
Examples:
  ffruntime explain                      over the bundle's exemplars -> model.ads.png
  ffruntime explain photos --window 3    over photos/CLASS/pictures
  ffruntime explain --mode classifier    one pass for an image instead of one for every class

\b
Exit codes: 0 done, 1 other errors and missing packages, 2 usage, 3 bundle, 4 image, 5 data set, 6 backend,
8 cannot write, 9 learned state."""

window_option = click.option(
    "--window", type=click.IntRange(min=1), default=5, show_default=True, help="Pixels a side that are hidden."
)
count_option = click.option(
    "--images", "count", type=click.IntRange(min=1), default=100, show_default=True, help="How many, at most."
)


@click.command(epilog=EPILOG)
@click.argument("folder", required=False, metavar="[DIR]", type=click.Path(path_type=Path))
@running_options
@window_option
@count_option
@click.option("--mode", help="goodness, classifier or shortlist; default: the model's best.")
@click.option("--no-preprocess", is_flag=True, help="The images are ready: as the network was trained on.")
@click.option("--out", metavar="FILE.png", type=click.Path(path_type=Path), help="Default: model.ads.png.")
@budget_options
@json_option
def explain(
    asked: Asked,
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
    model = asked.model()
    mode = model.mode(mode)
    model, limits = within(model, cast("Use", mode), device, memory)
    if folder:
        images, labels = _pictures(model, folder, count, not no_preprocess, limits.picture)
    else:
        images, labels = _exemplars(model, count)
    target = out or Path(f"{model.path.stem}.ads.png")
    explain_accuracy(lambda x: model.scores(x, mode), images, labels, model.classes, window, mode, target, as_json)


def _exemplars(model: Model, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The bundle's first exemplars, in which classes take turns: images uint8 (N, C, H, W), labels (N,)."""
    from ..core.manifest import EXEMPLARS
    from ..core.transition import read_tensors

    tensors = read_tensors(model.path, model.manifest, EXEMPLARS)
    return tensors["images"][:count], tensors["labels"][:count]


def _pictures(
    model: Model, folder: Path, count: int, preprocess: bool, room: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures in folders named like the model's classes, likewise by turns. Raises `DataError`, `ImageError`."""
    import numpy as np

    from ..core.errors import DataError
    from ..sources import is_picture

    found = []
    for label, name in enumerate(model.classes):
        files = sorted(file for file in (folder / name).glob("*") if is_picture(file))
        found += [(turn, label, file) for turn, file in enumerate(files)]
    if not found:
        raise DataError(f"{folder}: no pictures in folders named like classes, such as {folder / model.classes[0]}")
    chosen = sorted(found)[:count]
    images = np.stack([model.read(str(file), preprocess, room) for *_, file in chosen])
    return images, np.array([label for _, label, _ in chosen])


def explain_accuracy(
    predict: Predict,
    images: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    window: int,
    mode: str,
    target: Path,
    as_json: bool,
) -> None:
    """Find the saliency of images uint8 (N, C, H, W) with labels (N,), draw it into `target` and print it."""
    from ..core.durable import write_atomically
    from ..saliency import occlude, picture, steps

    with click.progressbar(length=steps(images), label=f"{len(images)} images", file=sys.stderr) as bar:
        found = occlude(predict, images, labels, len(classes), window, partial(bar.update, 1))
    maps = {"all": (images.mean(0), found.overall)}
    for label, name in enumerate(classes):
        if found.images[label]:
            maps[name] = images[labels == label].mean(0), found.by_class[label]
    write_atomically(target, picture(maps))
    plain = {"all": found.plain.sum() / found.images.sum()}
    plain |= {classes[i]: found.plain[i] / n for i, n in enumerate(found.images) if n}
    if as_json:
        result: dict[str, Any] = {"images": len(images), "mode": mode, "window": window, "picture": str(target)}
        result["saliency"] = {
            name: {"accuracy": float(plain[name]), "map": saliency.tolist()} for name, (_, saliency) in maps.items()
        }
        click.echo(json.dumps(result))
        return
    for name, (_, saliency) in maps.items():
        row, column = divmod(int(saliency.argmin()), saliency.shape[1])
        lost = f"{100 * saliency.min():+.1f} points at row {row}, column {column}".replace("-", "−")
        click.echo(f"{name}: {100 * plain[name]:.1f} % right; without {window} × {window} pixels {lost}")
    click.echo(f"{target} written")
