"""`fftrain mnist`: train and write a bundle."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ffruntime.errors import UsageError

from .common import import_torch, say

if TYPE_CHECKING:
    from ..train import Run

EPILOG = """\b
Examples:
  fftrain mnist                          the default network for this machine, into model.ff
  fftrain mnist --recipe paper           the best network of Scodellaro et al.
  fftrain mnist --resume                 go on after Ctrl-C, or after the power went
  fftrain mnist --classes 0-8            leave the 9 out (a device can learn it later)
  fftrain mnist --recipe my.toml --out my.ff --json

\b
Exit codes: 0 done, 1 other errors and missing packages, 2 usage, 3 damaged bundle or checkpoint,
5 data set, 6 no such device, 8 cannot write, 130 interrupted (the checkpoint is written)."""


@click.command(epilog=EPILOG)
@click.option("--recipe", metavar="NAME|FILE", help="A shipped recipe or a TOML file; default: by the hardware.")
@click.option(
    "--out",
    metavar="DIR",
    envvar="FF_MODEL",
    default="model.ff",
    show_default=True,
    help="The bundle to write; also $FF_MODEL.",
)
@click.option("--data", metavar="DIR", help="Where the data set lies or goes; default: $FF_DATA, else the cache.")
@click.option("--offline", is_flag=True, help="Use the offline sample of real MNIST; needs no network.")
@click.option("--classes", metavar="LIST", default="0-9", show_default=True, help="The digits to learn.")
@click.option("--epochs", type=click.IntRange(min=0), help="Instead of the recipe's; 0 writes an untrained bundle.")
@click.option("--seed", type=click.IntRange(min=0, max=2**31), default=0, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default: all cores.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint of an interrupted run.")
@click.option("--force", is_flag=True, help="Replace the bundle, and forget a checkpoint, that are there.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def mnist(
    recipe: str | None,
    out: str,
    data: str | None,
    offline: bool,
    classes: str,
    epochs: int | None,
    seed: int,
    device: str,
    threads: int | None,
    resume: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Train on MNIST and write a model bundle.

    50,000 images to train on, 10,000 to validate with; the 10,000 test images are read once, at the end.
    """
    torch = import_torch(threads)
    target = Path(out) if Path(out).name else Path(out).resolve()
    _check_target(target, resume, force)
    from .. import data as data_module
    from ..hardware import compute_exactly, default_recipe, find_hardware
    from ..recipe import load_recipe, with_epochs
    from ..train import start

    hardware = find_hardware(device)
    digits = data_module.parse_classes(classes)
    chosen = load_recipe(recipe) if recipe else None  # a wrong name is said before anything is downloaded
    dataset = data_module.load_dataset(data_module.data_directory(data), digits, offline)
    if dataset.source.offline_sample:
        note = "as asked" if offline else "MNIST is not here and cannot be downloaded"
        say(f"OFFLINE SAMPLE ({note}): 5,000 real MNIST images instead of 70,000; results are not MNIST results")
    name, why = (recipe, "as asked") if recipe else default_recipe(hardware, dataset.source.offline_sample)
    final = with_epochs(chosen or load_recipe(name), epochs)
    if resume and not final.schedule.epochs:
        raise UsageError("--resume and 0 epochs exclude each other: there is nothing to go on with")
    compute_exactly()
    run = start(final, dataset, seed, torch.device(hardware.device), hardware.dtype)
    say(f"recipe {name}: {why}; {hardware.name}, {hardware.precision}")
    with _hint_on_interrupt(target):
        summary = _train_and_pack(run, target, name, hardware.name, hardware.precision, resume)
    _print_summary(summary, as_json)


def _train_and_pack(run: Run, target: Path, name: str, device: str, precision: str, resume: bool) -> dict[str, Any]:
    import torch

    from ..checkpoint import checkpoint_path
    from ..data import on_device
    from ..display import duration, show
    from ..evaluate import accuracy
    from ..pack import parameter_count, write_bundle
    from ..train import estimate_seconds, train

    schedule, source = run.recipe.schedule, run.dataset.source
    begun = time.monotonic()
    say(
        f"{source.train} images × {schedule.epochs} epochs, {parameter_count(run.tensors):,} parameters: "
        f"about {duration(estimate_seconds(run))} from start to end{' (a part is done)' if resume else ''}"
    )
    measured = {}
    if schedule.epochs:
        with _stop_on_signal() as stop:
            show(train(run, target, resume, stop), run.steps_per_epoch, schedule.epochs)
        say("evaluating: all validation images, then the test images, once")
        splits = {"validation": run.dataset.validation, "test": run.dataset.test}
        classes = len(run.dataset.classes)
        for split_name, split in splits.items():
            measured[split_name] = accuracy(
                run.network, run.tensors, on_device(split, run.device), classes, torch.float32
            )
    write_bundle(target, run, name, device, precision, measured)
    checkpoint_path(target).unlink(missing_ok=True)
    return {
        "model": str(target),
        "recipe": name,
        "accuracy": measured,
        "seconds": round(time.monotonic() - begun, 1),
        "offline_sample": source.offline_sample,
    }


def _check_target(target: Path, resume: bool, force: bool) -> None:
    """Refuse, before any work, to overwrite what the user may want to keep."""
    from ffruntime.bundle import EXEMPLARS, GOLDEN, MANIFEST, WEIGHTS

    from ..checkpoint import checkpoint_path

    if resume and force:
        raise UsageError("--resume and --force exclude each other")
    if not target.name:
        raise UsageError(f"--out {target}: is no name for a bundle; choose another")
    checkpoint = checkpoint_path(target)
    if target.exists() and not (target / MANIFEST).exists():
        ours = {WEIGHTS, GOLDEN, EXEMPLARS}  # what a first write that was cut short leaves
        if not target.is_dir() or any(f.name not in ours and not f.name.endswith(".new") for f in target.iterdir()):
            raise UsageError(f"--out {target}: exists and is no model bundle; choose another name")
    if resume:
        if not checkpoint.exists():
            raise UsageError(f"--resume: there is no {checkpoint}; leave the option out to start anew")
    elif force:
        return  # the new run's first checkpoint replaces the old one, its bundle the old bundle
    elif checkpoint.exists():
        raise UsageError(f"{checkpoint}: a run was interrupted; --resume goes on with it, --force starts again")
    elif (target / MANIFEST).exists():
        raise UsageError(f"{target}: there is a model already; --force replaces it, --out NAME keeps both")


@contextmanager
def _hint_on_interrupt(target: Path) -> Iterator[None]:
    """Say how to go on with a run that was interrupted, wherever that was."""
    from ..checkpoint import checkpoint_path

    try:
        yield
    except KeyboardInterrupt:
        if checkpoint_path(target).exists():
            again = [part for part in sys.argv[1:] if part not in ("--force", "--resume")]
            say(f"the checkpoint is written; go on with: fftrain {shlex.join([*again, '--resume'])}")
        raise


@contextmanager
def _stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Within it, Ctrl-C and SIGTERM only set a flag, which the yielded function reads; a second one interrupts."""
    asked = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _frame: object) -> None:
        asked.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_summary(summary: dict[str, Any], as_json: bool) -> None:
    from ..display import duration, percent

    if as_json:
        click.echo(json.dumps(summary))
        return
    what = "of the OFFLINE SAMPLE" if summary["offline_sample"] else "of MNIST"
    for split, modes in summary["accuracy"].items():
        click.echo(f"{split:<10} {what}: " + ", ".join(f"{mode} {percent(a)}" for mode, a in modes.items()))
    click.echo(f"{summary['model']} written in {duration(summary['seconds'])}; next: ffexport")
