"""`ffruntime bench`: how fast the model is here, mode by mode."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ..command import Number, echo
from .options import RunOptions, budget_options, json_option, running_options, within

if TYPE_CHECKING:
    from ..measure import Speed

EPILOG = """\b
Examples:
  ffruntime bench                                  every mode of model.ff, on all cores
  ffruntime bench --threads 1 --precision int8
  ffruntime bench --device raspberry-pi-zero-2w    in calls as small as that device needs
  sudo ffruntime bench                             with the processor's energy, where only root may read it

Every mode has a process of its own: the memory is what that mode alone takes, at its highest, Python included.
Energy is what the meters count meanwhile, one image at a time, whoever uses it: close other programs."""


@click.command(epilog=EPILOG)
@running_options
@click.option("--mode", help="Only this mode, in this process; default: every mode that the model has.")
@click.option(
    "--seconds",
    type=Number(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="How long, for each mode and number of images in a call.",
)
@budget_options
@json_option
def bench(
    options: RunOptions,
    mode: str | None,
    seconds: float,
    device: str | None,
    memory: int | None,
    as_json: bool,
) -> None:
    """Measure latency, throughput, memory and energy on the bundle's own images, reading pictures left out."""
    from msgspec import convert, to_builtins

    from ..backend import DEFAULT_BACKEND
    from ..energy import find_meters
    from ..measure import Speed, measure

    model = options.model()
    meters, reasons = find_meters(gpu=options.backend != DEFAULT_BACKEND)
    how = {
        "model": options.model_path,
        **{name: getattr(options, name) for name in ("backend", "precision", "threads")},
        **{"device": device, "memory": memory, "seconds": seconds},
    }
    if mode:
        chosen = model.mode(mode)
        model, _ = within(model, chosen, device, memory)
        results = [measure(model, chosen, seconds, meters)]
    else:
        words = [f"--{name}={value}" for name, value in how.items() if value is not None]
        words += ["--shipped"] if options.shipped else [f"--state={options.state}"] if options.state else []
        rows = (_in_a_process([*words, f"--mode={name}"]) for name in model.modes())
        results = [convert(row, Speed, strict=False) for row in rows]
    if not as_json:
        echo(_table(results))
        echo(f"×{max(results[0].peak_mib)}: so many images in a call; median, p99 and energy are of one at a time")
        echo(f"energy: {', '.join(meter.name for meter in meters) or 'not measured: ' + '; '.join(reasons)}")
        return
    for result in results:
        echo(json.dumps({**how, **to_builtins(result, str_keys=True), "no_energy": reasons}))


def _in_a_process(options: Sequence[str]) -> dict[str, object]:
    """What this command prints with those options in a process of its own; where that fails, as it failed."""
    import subprocess

    command = [sys.executable, "-m", "ffruntime", "bench", "--json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            said, errors = process.communicate()
        except BaseException:  # this process is to end: that one ends in order, too
            process.terminate()
            process.communicate()
            raise
    if process.returncode:
        echo(errors.rstrip("\n"), err=True)
        raise click.exceptions.Exit(process.returncode)
    row: dict[str, object] = json.loads(said)
    return row


def _table(results: Sequence[Speed]) -> str:
    from ..core.tables import table

    sizes = list(results[0].images_per_second)
    ends = (sizes[0], sizes[-1])
    header = ["mode", "median ms", "p99 ms", *(f"images/s ×{n}" for n in sizes), *(f"MiB ×{n}" for n in ends)]
    rows = [
        [
            result.mode,
            f"{result.median_ms:.2f}",
            f"{result.p99_ms:.2f}",
            *(f"{speed:,.0f}" for speed in result.images_per_second.values()),
            *(_or_dash(result.peak_mib[size], "{:.0f}") for size in ends),
            _or_dash(result.joules_per_image and 1e3 * result.joules_per_image, "{:.2f}"),
        ]
        for result in results
    ]
    return table([*header, "mJ/image"], rows)


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
