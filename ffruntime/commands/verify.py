"""`ffruntime verify`: hashes and golden vectors, and what was learned since."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from .common import Asked, json_option, running_options, state_to_use

if TYPE_CHECKING:
    from ..learning.versions import Current
    from ..model import Model


@click.command()
@running_options
@json_option
def verify(asked: Asked, as_json: bool) -> None:
    """Check a bundle's hashes, then its golden vectors on this machine's backend: of the bundle as it was shipped.

    Where something was learned since, say what, and how many golden images are still decided as by the bundle.
    """
    from msgspec import to_builtins

    from ..backend import engine_conflict
    from ..core.transition import verified
    from ..golden import check, require
    from ..model import Model, learned_state
    from ..report import check_table, learned_text

    model = Model(asked.model_path, asked.backend, asked.threads or 0, asked.precision, state=False)
    if conflict := engine_conflict():
        click.echo(f"warning: {conflict}", err=True)
    for name in model.manifest.files:
        verified(model.path, model.manifest, name)
    checks = check(model)
    if not as_json:
        click.echo(f"{len(model.manifest.files)} files as the manifest says")
        click.echo(check_table(checks))
        require(checks, model.backend)
        click.echo(f"{model.backend} reproduces the trainer's golden vectors on this machine")
    learned = learned_state(model.path, model.manifest, state_to_use(asked.state, asked.shipped))
    since = _since(model, learned) if learned and all(row.passed for row in checks) else None
    if as_json:
        report = {
            "model": asked.model_path,
            "backend": model.backend,
            "checks": to_builtins(checks),
            "learned": since,
        }
        click.echo(json.dumps(report))
        require(checks, model.backend)
    elif learned and since:
        count = f"{since['as_shipped']} of {since['images']} golden images decided as shipped"
        click.echo(f"learned since: {learned_text(learned, model.manifest)}; {count}")


def _since(shipped: Model, learned: Current) -> dict[str, Any]:
    """What was learned, and what that does to the decisions on golden images, in fp32."""
    from ..golden import read_golden
    from ..model import Model

    images = read_golden(shipped)["images"]
    plain = Model(shipped.path, shipped.backend, shipped.threads, state=False)
    before = plain.scores(images).argmax(1)
    after = plain.with_weights(learned.weights).scores(images).argmax(1)
    return {
        "version": learned.version,
        "updates": learned.updates,
        "examples": learned.examples,
        "classes": learned.weights.classes[len(shipped.manifest.classes) :],
        "as_shipped": int((before == after).sum()),
        "images": len(images),
    }
