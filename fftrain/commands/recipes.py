"""`fftrain recipes`: what is shipped."""

from __future__ import annotations

import json

import click


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
        click.echo(
            json.dumps({"name": name, **to_builtins(recipe)}) if as_json else f"{name:<{width}}  {recipe.about}"
        )
