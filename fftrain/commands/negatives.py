"""`fftrain negatives`: a picture of hybrid images, and of what they are made of."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ffruntime.core.errors import MissingExtra, UsageError

from .common import import_torch

EPILOG = """\b
Examples:
  fftrain negatives                              hybrids of real digits, as hinton-unsupervised makes them
  fftrain negatives --recipe my.toml --seed 7 --out my-negatives.png

\b
Exit codes: 0 done, 1 other errors and missing packages, 2 usage, 8 cannot write."""


@click.command(epilog=EPILOG)
@click.option("--recipe", metavar="NAME|FILE", default="hinton-unsupervised", show_default=True)
@click.option("--count", type=click.IntRange(2, 100), default=12, show_default=True, help="How many.")
@click.option("--seed", type=click.IntRange(min=0, max=2**31), default=0, show_default=True)
@click.option("--out", metavar="FILE.png", default="negatives.png", show_default=True, help="The picture to write.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def negatives(recipe: str, count: int, seed: int, out: str, as_json: bool) -> None:
    """Draw the negative images of a recipe that needs no labels.

    A column for each: two digits of the sample, the mask, and the hybrid.
    """
    torch = import_torch()
    if Path(out).suffix.lower() != ".png":
        raise UsageError(f"--out {out}: the picture is a PNG; choose a name that ends in .png")
    from ffruntime.core.durable import write_atomically

    from ..data import load_offline_sample
    from ..hybrid import hybrids, masks
    from ..recipe import load_recipe

    try:
        from ..label_picture import Row, label_png
    except ImportError as error:
        raise MissingExtra("matplotlib", "train") from error
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
    rows = [Row(name, grey[:, 0, ..., None].expand(-1, -1, -1, 3).numpy() / 255) for name, grey in pictures.items()]
    write_atomically(Path(out), label_png([""] * count, rows))
    result = {"picture": out, "recipe": recipe, "blur": kind.blur, "count": count}
    click.echo(json.dumps(result) if as_json else out)
