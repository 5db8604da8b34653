"""What there is to look at: `fftrain recipes`, `labels` and `negatives` of a recipe, and the `report` of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ffruntime.command import echo
from ffruntime.core.errors import UsageError

from .shared import check_png, import_extra, import_torch, json_option, model_argument

if TYPE_CHECKING:
    import numpy as np

    from ..drawing import ImageRow
    from ..recipe import Recipe

LABELS_EPILOG = """\b
Examples:
  fftrain labels                                     the waves of Scodellaro et al., set 1
  fftrain labels --intensity 0.1,0.35,0.65,0.9       the same label from faint to strong
  fftrain labels --recipe paper-32-3x3-set2          set 2: one frequency, every orientation
  fftrain labels --recipe cifar-morphology --image cat.jpg --size 32
  fftrain labels --recipe my.toml --classes 100 --out my-labels.png

\b
Exit codes: 0 done, 1 other errors and missing packages, 2 usage, 4 image, 8 cannot write."""


NEGATIVES_EPILOG = """\b
Examples:
  fftrain negatives                              hybrids of real digits, as hinton-unsupervised makes them
  fftrain negatives --recipe my.toml --seed 7 --out my-negatives.png

\b
Exit codes: 0 done, 1 other errors and missing packages, 2 usage, 8 cannot write."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print whole recipes as JSON, one object a line.")
def recipes(as_json: bool) -> None:
    """List the recipes that are shipped."""
    from msgspec import to_builtins

    from ..recipe import load_recipe, recipe_names

    names = recipe_names()
    width = max(map(len, names))
    for name in names:
        recipe = load_recipe(name)
        echo(json.dumps({"name": name, **to_builtins(recipe)}) if as_json else f"{name:<{width}}  {recipe.about}")


@click.command()
@model_argument
@click.option("--out", metavar="FILE.html", help="The page to write; default: MODEL.report.html, where it was.")
def report(model: str, out: str | None) -> None:
    """Draw the report of MODEL (default: $FF_MODEL, else model.ff) again, as training did at its end.

    From the bundle and the figures beside it, MODEL.report.json. Nothing is evaluated.
    """
    import_torch()
    import_extra("matplotlib")
    from ..report import rewrite_page

    echo(f"{rewrite_page(Path(model), Path(out) if out else None)} written")


@click.command(epilog=LABELS_EPILOG)
@click.option("--recipe", metavar="NAME|FILE", default="paper", show_default=True, help="Whose labels.")
@click.option("--classes", type=click.IntRange(2, 1000), default=10, show_default=True, help="How many classes.")
@click.option("--image", metavar="FILE", help="A picture to label; default: a real MNIST digit of the sample.")
@click.option("--size", type=click.IntRange(8, 256), default=28, show_default=True, help="Pixels a side.")
@click.option("--intensity", metavar="K,K,…", help="A row for each label intensity; default: the recipe's K.")
@click.option("--out", metavar="FILE.png", default="labels.png", show_default=True, help="The picture to write.")
@json_option
def labels(
    recipe: str, classes: int, image: str | None, size: int, intensity: str | None, out: str, as_json: bool
) -> None:
    """Draw every label pattern of a recipe, and below it the network's input: an image with that label in it.

    A column for each class, for each spare pattern, and for the neutral label that the linear classifier sees.
    """
    import_torch()
    check_png(out)
    import_extra("matplotlib")
    from ffruntime.core.durable import write_atomically

    from ..drawing import image_rows_png
    from ..recipe import load_recipe

    chosen = load_recipe(recipe)
    recipes = _with_intensities(chosen, intensity) if intensity else {_title(chosen): chosen}
    rows = _rows(recipes, classes, _pixels(image, size))
    spare = chosen.patterns.spare
    columns = [*map(str, range(classes)), *["spare"] * spare, "neutral"]
    write_atomically(Path(out), image_rows_png(columns, rows))
    if as_json:
        result = {
            "picture": out,
            "recipe": recipe,
            "kind": chosen.patterns.__struct_config__.tag,
            "classes": classes,
            "spare": spare,
            "rows": [row.title for row in rows],
        }
        echo(json.dumps(result))
    else:
        echo(out)


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
        from ..dataset import load_offline_sample

        pixels, digits = load_offline_sample()
        picture = Image.fromarray(pixels[digits == 3][0, 0])
    else:
        from ffruntime.pictures.picture import read_picture

        picture = read_picture(image).convert("RGB")
    scaled = np.asarray(ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS))
    return np.moveaxis(np.atleast_3d(scaled), -1, 0)


def _rows(recipes: dict[str, Recipe], classes: int, pixels: np.ndarray) -> list[ImageRow]:
    """The patterns of the first recipe, and what the network receives under each of them.

    A recipe that standardises images does it here with this one's mean and deviation.
    """
    import torch

    from ffruntime.core.architecture import Image
    from ffruntime.core.data import to_unit_interval

    from ..drawing import ImageRow, input_cells, pattern_cells
    from ..network import embed, to_images
    from ..patterns import make_patterns
    from ..recipe import build_network

    for recipe in recipes.values():
        if recipe.network.placement == "top":
            raise UsageError("this recipe's labels are above the topmost unit: they are not in the image")
        if recipe.network.placement == "readout":
            raise UsageError("this recipe's labels have rows in the units' readouts: they are not in the image")
    rows: list[ImageRow] = []
    image = to_unit_interval(pixels)
    for title, recipe in recipes.items():
        tensors = make_patterns(recipe.patterns, classes, *pixels.shape[1:])
        patterns = torch.cat([tensors["labels.patterns"], tensors["labels.neutral"][None]])
        mean, std = (float(image.mean()), float(image.std())) if recipe.network.standardise else (0.0, 1.0)
        network = build_network(recipe, Image(pixels.shape, mean, std or 1.0), len(tensors["labels.patterns"]))
        if not rows:
            rows.append(ImageRow("pattern", pattern_cells(network, patterns.numpy())))
        copies = torch.from_numpy(pixels.copy())[None].expand(len(patterns), -1, -1, -1)
        inputs = embed(network, tensors, to_images(copies, network, torch.float32), patterns)
        rows.append(ImageRow(title, input_cells(network, inputs.numpy())))
    return rows


@click.command(epilog=NEGATIVES_EPILOG)
@click.option("--recipe", metavar="NAME|FILE", default="hinton-unsupervised", show_default=True)
@click.option("--count", type=click.IntRange(2, 100), default=12, show_default=True, help="How many.")
@click.option("--seed", type=click.IntRange(min=0, max=2**31), default=0, show_default=True)
@click.option("--out", metavar="FILE.png", default="negatives.png", show_default=True, help="The picture to write.")
@json_option
def negatives(recipe: str, count: int, seed: int, out: str, as_json: bool) -> None:
    """Draw the negative images of a recipe that needs no labels.

    A column for each: two digits of the sample, the mask, and the hybrid.
    """
    torch = import_torch()
    check_png(out)
    import_extra("matplotlib")
    from ffruntime.core.durable import write_atomically

    from ..dataset import load_offline_sample
    from ..drawing import ImageRow, image_rows_png
    from ..epoch import hybrids, masks
    from ..recipe import load_recipe

    kind = load_recipe(recipe).negatives
    if kind.source != "hybrid":
        raise UsageError(f"recipe {recipe}: its negatives are wrong labels, not images mixed of two")
    random = torch.Generator().manual_seed(seed)
    digits = torch.tensor(load_offline_sample()[0])
    chosen = digits[torch.randperm(len(digits), generator=random)[:count]]
    before = random.get_state()
    mixed = hybrids(chosen, 1, kind.blur, random)[:, 0]
    random.set_state(before)
    height, width = chosen.shape[2:]
    mask = 255 * masks(count, height, width, kind.blur, random)[:, None]
    pictures = {"image": chosen, "another": chosen.roll(-1, 0), "mask": mask, "hybrid": mixed}
    rows = [
        ImageRow(name, grey[:, 0, ..., None].expand(-1, -1, -1, 3).numpy() / 255) for name, grey in pictures.items()
    ]
    write_atomically(Path(out), image_rows_png([""] * count, rows))
    result = {"picture": out, "recipe": recipe, "blur": kind.blur, "count": count}
    echo(json.dumps(result) if as_json else out)
