"""`ffruntime info`: what is in a bundle, and what was learned on it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .common import json_option, model_option, state_options, state_to_use


@click.command()
@model_option
@state_options
@json_option
def info(model_path: str, state: Path | None, shipped: bool, as_json: bool) -> None:
    """What is in a bundle: network, classes, training, accuracy, files; and what was learned on it."""
    from msgspec import to_builtins

    from ..core.tables import manifest_text
    from ..core.transition import read_manifest
    from ..model import learned_state
    from ..report import learned_text

    path = Path(model_path)
    manifest = read_manifest(path)
    learned = learned_state(path, manifest, state_to_use(state, shipped))
    if as_json:
        facts = learned and {name: getattr(learned, name) for name in ("version", "updates", "examples")}
        if learned and facts:
            facts["classes"] = learned.weights.classes
        click.echo(json.dumps({**to_builtins(manifest), "learned": facts}))
        return
    click.echo(manifest_text(path, manifest))
    if learned:
        click.echo(f"\nlearned   {learned_text(learned, manifest)}")
