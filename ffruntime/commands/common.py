"""Options that several commands of ffruntime have."""

from __future__ import annotations

import click


def model_option(function):  # type: ignore[no-untyped-def]
    """`--model`, which every command that reads a bundle has."""
    return click.option(
        "--model",
        "model_path",
        metavar="DIR",
        envvar="FF_MODEL",
        default="model.ff",
        show_default=True,
        help="The bundle; also $FF_MODEL.",
    )(function)


def backend_options(function):  # type: ignore[no-untyped-def]
    """`--backend`, `--precision` and `--threads`, which every command that runs a graph has."""
    threads = click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default: all cores.")
    backend = click.option(
        "--backend", default="onnxruntime-cpu", show_default=True, help="onnxruntime-cpu or onnxruntime-cuda."
    )
    precision = click.option(
        "--precision", default="fp32", show_default=True, help="fp32, or fp16 or int8 where ffexport made it."
    )
    return backend(precision(threads(function)))


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
