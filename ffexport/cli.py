"""The command line of ffexport."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from ffruntime import command
from ffruntime.errors import BackendError, MissingExtra

EPILOG = """\b
Examples:
  ffexport                          ONNX graphs into model.ff (or $FF_MODEL)
  ffexport --model my.ff --json     the golden check as JSON, one object

\b
Exit codes: 0 done, 1 other errors and missing packages, 2 usage, 3 bundle, 6 format or engine not to be had
here, 7 the golden check failed, 8 cannot write. Whatever fails, the bundle is as it was."""


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=EPILOG,
)
@click.version_option(package_name="ffedge")
@click.option("--model", metavar="DIR", help="The bundle; default: $FF_MODEL, else model.ff.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["onnx", "tensorrt"]),
    default="onnx",
    show_default=True,
    help="What to make.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def cli(model: str | None, kind: str, as_json: bool) -> None:
    """Export a trained bundle: a graph for each unit, the goodness of any labels, and the linear classifier.

    Every graph is run against the bundle's golden vectors before it is added.
    """
    if kind == "tensorrt":
        raise BackendError(
            "--format tensorrt: this version of ffexport does not build TensorRT engines yet; "
            "--format onnx makes graphs that ONNX Runtime runs"
        )
    try:
        from .export import export_onnx
    except ImportError as error:
        if error.name in ("onnx", "spox"):
            raise MissingExtra(error.name, "export") from error
        raise
    path = Path(model or os.environ.get("FF_MODEL") or "model.ff")
    checks = export_onnx(path)
    if as_json:
        from msgspec import to_builtins

        click.echo(json.dumps({"model": str(path), "checks": to_builtins(checks)}))
        return
    from ffruntime.report import check_table

    click.echo(check_table(checks))
    click.echo(f"{path}: every graph reproduces the trainer's golden vectors; next: ffruntime classify image.png")


def main() -> None:
    """Entry point of `ffexport`."""
    command.run(cli)
