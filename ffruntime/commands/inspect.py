"""What a bundle is, needs and computes here: `ffruntime info`, `plan`, `devices`, `verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..command import Count, echo
from .options import RunOptions, json_option, model_option, running_options, state_options, state_to_use

if TYPE_CHECKING:
    from ..learning.store import Current
    from ..model import Model

PLAN_EPILOG = """\b
Examples:
  ffruntime plan --device raspberry-pi-zero-2w
  ffruntime plan --memory 100                   in 100 MiB, Python and the engine included
  ffruntime plan --memory 160 --serve           for 'ffruntime serve', which answers while it learns

\b
Exit codes: 0 at least one mode fits, 2 usage, 3 bundle, 6 none does, or flash is too small."""


@click.command()
@model_option
@state_options
@json_option
def info(model_path: str, state: Path | None, shipped: bool, as_json: bool) -> None:
    """What is in a bundle: network, classes, training, accuracy, files; and what was learned on it."""
    from msgspec import to_builtins

    from ..core.bundle import Bundle
    from ..core.tables import manifest_text
    from ..session import learned
    from ..terminal import learned_text

    bundle = Bundle(model_path)
    found = learned(bundle, state_to_use(state, shipped))
    if as_json:
        facts = found and {
            **{name: getattr(found, name) for name in ("version", "updates", "examples")},
            "classes": found.weights.classes,
        }
        echo(json.dumps({**to_builtins(bundle.manifest), "learned": facts}))
        return
    echo(manifest_text(bundle.path, bundle.manifest))
    if found:
        echo(f"\nlearned   {learned_text(found, bundle.manifest) or 'nothing yet'}")


@click.command(epilog=PLAN_EPILOG)
@model_option
@click.option("--device", help="A device profile: its name (see 'ffruntime devices'), or a TOML file.")
@click.option(
    "--memory",
    type=Count(1),
    metavar="MIB",
    help="What the process may take. Default: what the device has.",
)
@click.option("--precision", default="fp32", show_default=True, help="fp32, fp16 or int8; learning is fp32.")
@click.option("--serve", "serving", is_flag=True, help="In the process of 'ffruntime serve'.")
@json_option
def plan(
    model_path: str, device: str | None, memory: int | None, precision: str, serving: bool, as_json: bool
) -> None:
    """What each mode and an update need: a process's peak, in the largest calls that fit; and flash.

    Without a device and without a limit, the calls are those that nothing makes smaller.
    """
    from msgspec import structs
    from msgspec.json import encode

    from ..core import plan as planner
    from ..core.bundle import Bundle
    from ..core.devices import load_profile
    from ..core.precision import known_precision
    from ..core.tables import plan_text

    chosen, manifest = known_precision(precision), Bundle(model_path).manifest
    limits = planner.device_limits(load_profile(device)) if device else planner.UNLIMITED
    if memory:
        limits = structs.replace(limits, memory=memory * planner.MIB)
    name = Path(device).stem if device else None
    found = planner.plan(manifest, len(manifest.classes), chosen, limits, name, serving)
    planner.require_fit(found)
    echo(encode(found).decode() if as_json else plan_text(found))


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
        echo(json.dumps(to_builtins(profile)) if as_json else profile_text(profile))
        return
    profiles = {name: load_profile(name) for name in profile_names()}
    if as_json:
        for name, profile in profiles.items():
            echo(json.dumps({"name": name, **to_builtins(profile)}))
    else:
        echo(profile_table(profiles))


@click.command()
@running_options
@json_option
def verify(options: RunOptions, as_json: bool) -> None:
    """Check a bundle's hashes, then its golden vectors on this machine's backend: of the bundle as it was shipped.

    Where something was learned since, say what, and how many golden images are still decided as by the bundle.
    """
    from msgspec import to_builtins

    from ..backend import engine_conflict
    from ..golden import check, require
    from ..model import Model
    from ..session import learned
    from ..terminal import check_table, learned_text

    model = Model(options.model_path, session=options.session(), state=False)
    if conflict := engine_conflict():
        echo(f"warning: {conflict}", err=True)
    for name in model.manifest.files:
        model.bundle.verified(name)
    checks = check(model)
    if not as_json:
        echo(f"{len(model.manifest.files)} files as the manifest says")
        echo(check_table(checks))
        require(checks, model.backend)
        echo(f"{model.backend} reproduces the trainer's golden vectors on this machine")
    found = learned(model.bundle, state_to_use(options.state, options.shipped))
    since = _since(model, found) if found and all(row.passed for row in checks) else None
    if as_json:
        report = {
            "model": options.model_path,
            "backend": model.backend,
            "checks": to_builtins(checks),
            "learned": since,
        }
        echo(json.dumps(report))
        require(checks, model.backend)
    elif found and since and (said := learned_text(found, model.manifest)):
        count = f"{since['as_shipped']} of {since['images']} golden images decided as shipped"
        echo(f"learned since: {said}; {count}")


def _since(shipped: Model, found: Current) -> dict[str, Any]:
    """What was learned, and what that does to the decisions on golden images, in fp32."""
    from msgspec import structs

    from ..golden import read_golden

    images = read_golden(shipped.bundle)["images"]
    plain = shipped.with_session(structs.replace(shipped.session, precision="fp32"))
    now = plain.with_weights(found.weights)
    same = plain.scores(images).argmax(1) == now.scores(images).argmax(1)
    return {
        "version": found.version,
        "updates": found.updates,
        "examples": found.examples,
        "classes": found.weights.classes[len(shipped.manifest.classes) :],
        "as_shipped": int(same.sum()),
        "images": len(images),
    }
