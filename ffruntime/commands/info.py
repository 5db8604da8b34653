"""`ffruntime info`: what is in a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .common import json_option, model_option


@click.command()
@model_option
@json_option
def info(model_path: str, as_json: bool) -> None:
    """What is in a bundle: network, classes, training, accuracy, files."""
    from msgspec import to_builtins

    from ..bundle import read_manifest

    path = Path(model_path)
    manifest = read_manifest(path)
    if as_json:
        click.echo(json.dumps(to_builtins(manifest)))
        return
    from ..report import manifest_text

    click.echo(manifest_text(path, manifest))
