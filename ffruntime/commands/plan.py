"""`ffruntime plan`: what a network needs in every mode and to learn, and whether a device has it."""

from __future__ import annotations

from pathlib import Path

import click

from .common import json_option, model_option

EPILOG = """\b
Examples:
  ffruntime plan --device raspberry-pi-zero-2w
  ffruntime plan --memory 100                   in 100 MiB, Python and the engine included

\b
Exit codes: 0 at least one mode fits, 2 usage, 3 bundle, 6 none does, or flash is too small."""


@click.command(epilog=EPILOG)
@model_option
@click.option("--device", help="A device profile: its name (see 'ffruntime devices'), or a TOML file.")
@click.option(
    "--memory",
    type=click.IntRange(min=1),
    metavar="MIB",
    help="What the process may take. Default: what the device has.",
)
@click.option("--precision", default="fp32", show_default=True, help="fp32, fp16 or int8; learning is fp32.")
@json_option
def plan(model_path: str, device: str | None, memory: int | None, precision: str, as_json: bool) -> None:
    """What each mode and an update need: a process's peak, in the largest calls that fit; and flash.

    Without a device and without a limit, the calls are those that nothing makes smaller.
    """
    from msgspec import structs
    from msgspec.json import encode

    from ..core import plan as planner
    from ..core.devices import load_profile
    from ..core.errors import unknown
    from ..core.manifest import PRECISIONS
    from ..core.tables import plan_text
    from ..core.transition import read_manifest

    known = {str(name): name for name in PRECISIONS}
    if precision not in known:
        raise unknown("precision", precision, known)
    manifest = read_manifest(Path(model_path))
    room = planner.device_limits(load_profile(device)) if device else planner.UNLIMITED
    if memory:
        room = structs.replace(room, memory=memory * planner.MIB)
    name = Path(device).stem if device else None
    found = planner.plan(manifest, len(manifest.classes), known[precision], room, name)
    planner.require_fit(found)
    click.echo(encode(found).decode() if as_json else plan_text(found))
