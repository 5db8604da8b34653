"""`fftrain labels`: a picture of a recipe's labels, and of an image that carries them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ffruntime.core.errors import MissingExtra, UsageError

from .common import import_torch

if TYPE_CHECKING:
    import numpy as np

    from ..label_picture import Row
    from ..recipe import Recipe

EPILOG = """\b
Examples:
  fftrain labels                                     the waves of Scodellaro et al., set 1
  fftrain labels --intensity 0.1,0.35,0.65,0.9       the same label from faint to strong
  fftrain labels --recipe paper-32-3x3-set2          set 2: one frequency, every orientation
  fftrain labels --recipe cifar-morphology --image cat.jpg --size 32
  fftrain labels --recipe my.toml --classes 100 --out my-labels.png

\b
Exit codes: 0 done, 1 other errors and missing packages, 2 usage, 4 image, 8 cannot write."""


@click.command(epilog=EPILOG)
@click.option("--recipe", metavar="NAME|FILE", default="paper", show_default=True, help="Whose labels.")
@click.option("--classes", type=click.IntRange(2, 1000), default=10, show_default=True, help="How many classes.")
@click.option("--image", metavar="FILE", help="A picture to label; default: a real MNIST digit of the sample.")
@click.option("--size", type=click.IntRange(8, 256), default=28, show_default=True, help="Pixels a side.")
@click.option("--intensity", metavar="K,K,…", help="A row for each label intensity; default: the recipe's K.")
@click.option("--out", metavar="FILE.png", default="labels.png", show_default=True, help="The picture to write.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def labels(
    recipe: str, classes: int, image: str | None, size: int, intensity: str | None, out: str, as_json: bool
) -> None:
    """Draw every label pattern of a recipe, and below it the network's input: an image with that label in it.

    A column for each class, for each spare pattern, and for the neutral label that the linear classifier sees.
    """
    import_torch()
    if Path(out).suffix.lower() != ".png":
        raise UsageError(f"--out {out}: the picture is a PNG; choose a name that ends in .png")
    from ffruntime.core.durable import write_atomically

    from ..recipe import load_recipe

    try:
        from ..label_picture import label_png
    except ImportError as error:
        raise MissingExtra("matplotlib", "train") from error
    chosen = load_recipe(recipe)
    recipes = _with_intensities(chosen, intensity) if intensity else {_title(chosen): chosen}
    rows = _rows(recipes, classes, _pixels(image, size))
    spare = chosen.patterns.spare
    columns = [*map(str, range(classes)), *["spare"] * spare, "neutral"]
    write_atomically(Path(out), label_png(columns, rows))
    if as_json:
        result = {
            "picture": out,
            "recipe": recipe,
            "kind": chosen.patterns.__struct_config__.tag,
            "classes": classes,
            "spare": spare,
            "rows": [row.title for row in rows],
        }
        click.echo(json.dumps(result))
    else:
        click.echo(out)


def _title(recipe: Recipe) -> str:
    """What stands beside the row of the image with the recipe's labels."""
    k = getattr(recipe.patterns, "intensity", None)
    return "input" if k is None else f"K = {k:g}"


def _with_intensities(recipe: Recipe, text: str) -> dict[str, Recipe]:
    """The recipe at each of the intensities, by the title of its row. Raises `UsageError`."""
    from msgspec.structs import replace

    if not hasattr(recipe.patterns, "intensity"):
        raise UsageError(f"--intensity: {recipe.patterns.__struct_config__.tag} patterns have none")
    recipes = {}
    for part in text.split(","):
        try:
            k = float(part)
        except ValueError:
            k = -1.0
        if not 0 <= k <= 1:
            raise UsageError(f"--intensity {text}: expected numbers from 0 to 1, such as 0.1,0.35,0.9")
        changed = replace(recipe, patterns=replace(recipe.patterns, intensity=k))
        recipes[_title(changed)] = changed
    return recipes


def _pixels(image: str | None, size: int) -> np.ndarray:
    """The picture's middle, or a digit of the offline sample: uint8 (C, size, size)."""
    import numpy as np
    from PIL import Image, ImageOps

    if image is None:
        from ..data import load_offline_sample

        pixels, digits = load_offline_sample()
        picture = Image.fromarray(pixels[digits == 3][0, 0])
    else:
        from ffruntime.picture import read_picture

        picture = read_picture(image).convert("RGB")
    scaled = np.asarray(ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS))
    return np.moveaxis(np.atleast_3d(scaled), -1, 0)


def _rows(recipes: dict[str, Recipe], classes: int, pixels: np.ndarray) -> list[Row]:
    """The patterns of the first recipe, and what the network receives under each of them.

    A recipe that standardises images does it here with this one's mean and deviation.
    """
    import numpy as np

    from ffruntime.core.architecture import Image
    from ffruntime.core.data import to_unit_interval
    from ffruntime.embedding import embed

    from ..label_picture import Row, input_cells, pattern_cells
    from ..labels import make_patterns
    from ..recipe import build_network

    for recipe in recipes.values():
        if recipe.network.placement == "top":
            raise UsageError("this recipe's labels are above the topmost unit: they are not in the image")
    rows: list[Row] = []
    image = to_unit_interval(pixels)[None]
    for title, recipe in recipes.items():
        tensors = {n: t.numpy() for n, t in make_patterns(recipe.patterns, classes, *pixels.shape[1:]).items()}
        patterns = np.concatenate([tensors["labels.patterns"], tensors["labels.neutral"][None]])
        mean, std = (float(image.mean()), float(image.std())) if recipe.network.standardise else (0.0, 1.0)
        network = build_network(recipe, Image(pixels.shape, mean, std or 1.0), len(tensors["labels.patterns"]))
        if not rows:
            rows.append(Row("pattern", pattern_cells(network, patterns)))
        inputs = embed(network, tensors, image.repeat(len(patterns), axis=0), patterns)
        rows.append(Row(title, input_cells(network, inputs)))
    return rows
