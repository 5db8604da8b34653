"""`fftrain report`: draw a run's report again."""

from __future__ import annotations

from pathlib import Path

import click

from .common import import_torch


@click.command()
@click.argument("model", metavar="[MODEL]", envvar="FF_MODEL", default="model.ff")
@click.option("--out", metavar="FILE.html", help="The page to write; default: MODEL.report.html, where it was.")
def report(model: str, out: str | None) -> None:
    """Draw the report of MODEL (default: $FF_MODEL, else model.ff) again, as training did at its end.

    From the bundle and the figures beside it, MODEL.report.json. Nothing is evaluated.
    """
    import_torch()
    from ..report import rewrite_page

    click.echo(f"{rewrite_page(Path(model), Path(out) if out else None)} written")
