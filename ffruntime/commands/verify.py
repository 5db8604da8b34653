"""`ffruntime verify`: hashes and golden vectors."""

from __future__ import annotations

import json

import click

from .common import backend_options, json_option, model_option


@click.command()
@model_option
@backend_options
@json_option
def verify(model_path: str, backend: str, precision: str, threads: int | None, as_json: bool) -> None:
    """Check a bundle's hashes, then its golden vectors on this machine's backend."""
    from msgspec import to_builtins

    from ..backend import engine_conflict
    from ..bundle import verified
    from ..golden import check, require
    from ..model import Model
    from ..report import check_table

    model = Model(model_path, backend, threads or 0, precision)
    if conflict := engine_conflict():
        click.echo(f"warning: {conflict}", err=True)
    for name in model.manifest.files:
        verified(model.path, model.manifest, name)
    checks = check(model)
    if as_json:
        click.echo(json.dumps({"model": model_path, "backend": backend, "checks": to_builtins(checks)}))
    else:
        click.echo(f"{len(model.manifest.files)} files as the manifest says")
        click.echo(check_table(checks))
    require(checks, backend)
    if not as_json:
        click.echo(f"{backend} reproduces the trainer's golden vectors on this machine")
