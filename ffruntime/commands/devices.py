"""`ffruntime devices`: the device profiles."""

from __future__ import annotations

import json

import click

from .common import json_option


@click.command()
@click.argument("device", required=False)
@json_option
def devices(device: str | None, as_json: bool) -> None:
    """The device profiles, or one (by name, or a TOML file) with the sources of its figures."""
    from msgspec import to_builtins

    from ..core.devices import load_profile, profile_names
    from ..core.tables import profile_table, profile_text

    if device:
        profile = load_profile(device)
        click.echo(json.dumps(to_builtins(profile)) if as_json else profile_text(profile))
        return
    profiles = {name: load_profile(name) for name in profile_names()}
    if as_json:
        for name, profile in profiles.items():
            click.echo(json.dumps({"name": name, **to_builtins(profile)}))
    else:
        click.echo(profile_table(profiles))
