"""What the commands of fftrain share: packages that a command needs, and options."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from types import ModuleType

import click

from ffruntime.command import THREADS
from ffruntime.core.errors import FFError, MissingExtra, UsageError

# How often torch's threads look for work before they sleep (libgomp, of torch's Linux packages). They meet after
# every parallel loop, and as they come, spin 300 times as long. Where another program keeps a core busy, that takes
# the time from their next work: benchmarks/contention.py.
WAITING = {"GOMP_SPINCOUNT": "1000"}

model_argument = click.argument("model", metavar="[MODEL]", envvar="FF_MODEL", default="model.ff")
data_option = click.option(
    "--data", metavar="DIR", help="Where the data set lies or goes; default: $FF_DATA, else the cache."
)
offline_option = click.option(
    "--offline", is_flag=True, help="Use the offline sample of real MNIST; needs no network."
)
device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
threads_option = click.option("--threads", type=THREADS, help="CPU threads; default: all cores.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def import_extra(module: str) -> ModuleType:
    """A package of the extra `train`, which commands import when they run. Raises `MissingExtra` where it is not
    installed, `FFError` where it cannot be loaded."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtra(module, "train") from error
    except ImportError as error:  # for want of file descriptors, or of a library of the system
        raise FFError(f"{module} is installed, and cannot be loaded: {' '.join(str(error).split())}") from error


def import_torch(threads: int | None = None) -> ModuleType:
    """torch, on so many CPU threads, which wait as `WAITING` says unless the user's environment says how. Raises
    `MissingExtra` where it is not installed."""
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ.update(WAITING)  # read when torch is loaded
    torch = import_extra("torch")
    if threads:
        torch.set_num_threads(threads)
    return torch


def check_png(out: str) -> None:
    """Raise `UsageError` unless a picture's name says that it is a PNG."""
    if Path(out).suffix.lower() != ".png":
        raise UsageError(f"--out {out}: the picture is a PNG; choose a name that ends in .png")
