"""The command line of ffruntime. Modules are imported where they are needed: start-up counts on a device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import command

if TYPE_CHECKING:
    from .model import Answer

EPILOG = """\b
Examples:
  ffruntime classify three.png                  the answer, how sure, how fast
  ffruntime classify --json --mode classifier *.png
  curl … | ffruntime classify -                 from standard input
  ffruntime classify --show photo.jpg           and what the network was shown
  ffruntime info; ffruntime verify; ffruntime devices

\b
Exit codes: 0 done, 1 other errors and missing packages, 2 usage, 3 bundle, 4 image (the others are classified
all the same), 6 backend, 7 a backend that fails the golden check, 130 interrupted."""

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(context_settings=CONTEXT, epilog=EPILOG, no_args_is_help=False)
@click.version_option(package_name="ffedge")
def cli() -> None:
    """Run a Forward-Forward network on the device."""


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


@cli.command(epilog=EPILOG)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE…")
@model_option
@click.option("--mode", help="goodness (every label) or classifier (one pass); default: the model's best.")
@click.option("--top", type=click.IntRange(min=1), default=1, show_default=True, help="How many classes to print.")
@click.option("--no-preprocess", is_flag=True, help="The images are ready: as the network was trained on.")
@click.option("--show", is_flag=True, help="Draw what the network was shown.")
@backend_options
@json_option
def classify(
    images: tuple[str, ...],
    model_path: str,
    mode: str | None,
    top: int,
    no_preprocess: bool,
    show: bool,
    backend: str,
    precision: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Say what IMAGE… show (`-`: standard input). Any size, colour and polarity."""
    from .errors import ImageError
    from .model import Model

    model = Model(model_path, backend, threads or 0, precision)
    model.mode(mode)
    failed = False
    for path in images:
        try:
            pixels = model.read(path, not no_preprocess)
        except ImageError as error:  # say so, and go on with the others
            click.echo(f"error: {error}", err=True)
            failed = True
            continue
        answer = model.classify_batch(pixels[None], mode)[0]
        if show:
            from .report import draw

            click.echo(draw(pixels), err=as_json)
        click.echo(_answer_json(path, answer, top) if as_json else _answer_line(path, answer, top))
    if failed:
        raise click.exceptions.Exit(ImageError.exit_code)


def _answer_json(path: str, answer: Answer, top: int) -> str:
    return json.dumps(
        {
            "path": path,
            "label": answer.label,
            "margin": answer.margin,
            "scores": answer.scores,
            "top": list(answer.scores)[:top],
            "mode": answer.mode,
            "backend": answer.backend,
            "ms": answer.ms,
        }
    )


def _answer_line(path: str, answer: Answer, top: int) -> str:
    ranked = list(answer.scores.items())
    others = "".join(f", {label} (−{ranked[0][1] - score:.3g})" for label, score in ranked[1:top])
    how = f"[{answer.mode}, {answer.backend}, {answer.ms:.1f} ms]"
    return f"{path}: {answer.label}  score {ranked[0][1]:.4g}, margin {answer.margin:.3g}{others}  {how}"


@cli.command()
@model_option
@json_option
def info(model_path: str, as_json: bool) -> None:
    """What is in a bundle: network, classes, training, accuracy, files."""
    from msgspec import to_builtins

    from .bundle import read_manifest

    path = Path(model_path)
    manifest = read_manifest(path)
    if as_json:
        click.echo(json.dumps(to_builtins(manifest)))
        return
    from .report import manifest_text

    click.echo(manifest_text(path, manifest))


@cli.command()
@model_option
@backend_options
@json_option
def verify(model_path: str, backend: str, precision: str, threads: int | None, as_json: bool) -> None:
    """Check a bundle's hashes, then its golden vectors on this machine's backend."""
    from msgspec import to_builtins

    from .backend import engine_conflict
    from .bundle import verified
    from .golden import check, require
    from .model import Model
    from .report import check_table

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


@cli.command()
@click.argument("device", required=False)
@json_option
def devices(device: str | None, as_json: bool) -> None:
    """The device profiles, or one (by name, or a TOML file) with the sources of its figures."""
    from msgspec import to_builtins

    from .profile import load_profile, profile_names
    from .report import profile_table, profile_text

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


def main() -> None:
    """Entry point of `ffruntime`."""
    command.run(cli)
