"""`ffruntime plan`: what a network needs in every mode and to learn, and whether a device has it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import json_option, model_option

if TYPE_CHECKING:
    from ..bundle import Manifest
    from ..plan import Need, Room, Use

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
    from msgspec import structs, to_builtins

    from ..bundle import read_manifest
    from ..errors import BackendError, unknown
    from ..plan import MARGIN, MIB, UNLIMITED, flash_bytes, need, require_any, room_on
    from ..precision import PRECISIONS
    from ..profile import load_profile

    known = {str(name): name for name in PRECISIONS}
    if precision not in known:
        raise unknown("precision", precision, known)
    manifest = read_manifest(Path(model_path))
    profile = load_profile(device) if device else None
    room = room_on(profile) if profile else UNLIMITED
    if memory:
        room = structs.replace(room, memory=memory * MIB)
    uses = _uses(manifest)
    needs = [need(manifest.network, len(manifest.classes), use, room, known[precision]) for use in uses]
    require_any(needs, int(room.memory / MARGIN))
    flash = flash_bytes(manifest.network, known[precision], {n: entry.size for n, entry in manifest.files.items()})
    there = profile.storage.usable_mib * MIB if profile else None
    if as_json:
        for found in needs:
            click.echo(json.dumps({**to_builtins(found), "total": found.memory.total, "of": _limit(room)}))
        click.echo(json.dumps({"use": "flash", **flash, "total": sum(flash.values()), "of": there}))
        return
    click.echo(_table(needs, room))
    parts = ", ".join(f"{name} {size / MIB:.1f}" for name, size in flash.items())
    limit = f" of {there / MIB:,.0f}" if there else ""
    full = there is not None and sum(flash.values()) > there
    click.echo(f"\nflash: {sum(flash.values()) / MIB:,.1f}{limit} MiB ({parts}){', does not fit' if full else ''}")
    if _limit(room) is not None:
        click.echo(f"'fits' leaves a margin: the figures are off by up to {100 * (MARGIN - 1):.0f} %")
    if full:
        raise click.exceptions.Exit(BackendError.exit_code)


def _uses(manifest: Manifest) -> list[Use]:
    """What the bundle's network can be used for."""
    modes: list[Use] = [*manifest.modes]
    if len(modes) > 1:
        modes.append("shortlist")
    return [*modes, "update"] if "goodness" in modes else modes


def _limit(room: Room) -> int | None:
    from ..plan import UNLIMITED

    return None if room.memory == UNLIMITED.memory else room.memory


def _table(needs: Sequence[Need], room: Room) -> str:
    """A row for each use, in MiB."""
    from ..plan import MIB, STEP
    from ..report import table

    parts = [name for name in needs[0].memory.__struct_fields__ if any(getattr(n.memory, name) for n in needs)]
    limit = _limit(room)
    rows = []
    for found in needs:
        calls, memory = found.calls, found.memory
        how = f"{calls.batch} images" if calls.batch > 1 else "1 image"
        how += f" × {calls.labels} labels" if calls.labels > 1 else ""
        how = f"{calls.micro_batch} of {STEP} images" if found.use == "update" else how
        cells = (f"{getattr(memory, part) / MIB:,.1f}" for part in parts)
        fits = "" if limit is None else "fits" if found.fits else "does not fit"
        rows.append((found.use, how, *cells, f"{memory.total / MIB:,.1f}", fits))
    title = "MiB" if limit is None else f"of {limit / MIB:,.0f} MiB"
    return table(("", "in one call", *parts, "in all", title), rows)
