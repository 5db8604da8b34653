"""`fftrain mnist`, `fashion-mnist`, `cifar10`, `cifar100`, `folder`: train and write a bundle."""

from __future__ import annotations

import functools
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ffruntime.command import Count, Number, echo
from ffruntime.core.errors import UsageError

from ..display import duration, percent, say, show_training, stop_on_signal
from ..sets import SETS, PublishedSet
from .length import TrainingOptions, asked_recipe, check_length, choose_recipe, train_for
from .shared import (
    data_option,
    device_option,
    import_extra,
    import_torch,
    json_option,
    offline_option,
    threads_option,
)

if TYPE_CHECKING:
    import numpy as np

    from ..clock import Costs
    from ..dataset import Dataset
    from ..evaluation import Scores
    from ..hardware import Hardware
    from ..recipe import Recipe
    from ..run import Run

EPILOG = """\b
Examples:
  fftrain mnist                          the default network, in at most 15 minutes, into model.ff
  fftrain mnist --recipe cpu             the label in the input, as in Hinton's Forward-Forward algorithm
  fftrain mnist --minutes 5              what there is time for in five minutes
  fftrain mnist --recipe paper           the best network of Scodellaro et al.
  fftrain mnist --set schedule.lr=1e-3   the default recipe with another learning rate
  fftrain mnist --resume                 go on after Ctrl-C, or after the power went
  fftrain mnist --classes 0-8            leave the 9 out (a device can learn it later)
  fftrain cifar10 --classes cat,dog      two classes of CIFAR-10
  fftrain folder pets --size 48          your own pictures: pets/CLASS/NAME.png, pets/train/CLASS/…, or pets.zip
  fftrain mnist --recipe my.toml --out my.ff --json
  torchrun --nproc-per-node 2 -m fftrain mnist      several GPUs, or processes, with one result

\b
Exit codes: 0 done, 1 other errors and missing packages, 2 usage, 3 damaged bundle or checkpoint,
5 data set, 6 no such device, 8 cannot write, 130 interrupted (the checkpoint is written)."""


OPTIONS = (
    click.option(
        "--recipe",
        metavar="NAME|FILE",
        help="A shipped recipe or a TOML file; default: class, or micro where the time is too short for it.",
    ),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="FIELD=VALUE",
        help="Set a field of the recipe, such as schedule.lr=1e-3 or 'network.units.*.ops.0.out=32'; repeatable.",
    ),
    click.option(
        "--out",
        metavar="DIR",
        envvar="FF_MODEL",
        default="model.ff",
        show_default=True,
        help="The bundle to write; also $FF_MODEL.",
    ),
    click.option(
        "--classes", metavar="LIST", help="Names or indices, such as cat,dog or 0-8; default: all classes."
    ),
    click.option("--epochs", type=Count(0), help="Instead of the recipe's; 0 writes an untrained bundle."),
    click.option(
        "--minutes",
        type=Number(min=0.1),
        help="From start to end; after the first minute the clock decides the number of steps. Default: without "
        "--recipe at most 15, with it all of its epochs.",
    ),
    click.option("--steps", type=Count(1), help="So many steps, as the clock may once have decided."),
    click.option("--seed", type=click.IntRange(min=0, max=2**31), default=0, show_default=True),
    device_option,
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16"]),
        default="auto",
        show_default=True,
        help="Of activations; weights are fp32. auto: bf16 where the hardware computes it.",
    ),
    click.option(
        "--step",
        metavar="WAY",
        default="auto",
        show_default=True,
        help="How steps run, such as graphs,compiled: docs/training.md. The result is the same but for rounding.",
    ),
    threads_option,
    click.option("--resume", is_flag=True, help="Go on from the checkpoint of an interrupted run."),
    click.option("--force", is_flag=True, help="Replace the bundle, and forget a checkpoint, that are there."),
    json_option,
)


def training_options(function: Callable[..., None]) -> Callable[..., None]:
    """A command with `OPTIONS`, which it gets as `TrainingOptions`, before what it takes besides."""

    @functools.wraps(function)
    def gathered(**values: Any) -> None:
        options = TrainingOptions(**{name: values.pop(name) for name in TrainingOptions.__struct_fields__})
        function(options, **values)

    for option in reversed(OPTIONS):
        gathered = option(gathered)
    return gathered


def set_command(name: str, wanted: PublishedSet) -> click.Command:
    """The command that trains on a published data set."""

    @training_options
    def command(options: TrainingOptions, data: str | None, offline: bool = False) -> None:
        _train(options, lambda: _load_set(name, data, options.classes, offline))

    train, validation, test = wanted.counts
    about = (
        f"Train on {wanted.title} and write a model bundle.\n\n{train:,} images to train on, {validation:,} to "
        f"validate with; the {test:,} test images are read once, at the end."
    )
    if wanted.jpeg_copy:
        about += (
            f" Where {wanted.title} is not in the data directory, but {wanted.jpeg_copy} is, that lossy copy of it."
        )
    if wanted.sample:
        command = offline_option(command)
    return click.command(name, epilog=EPILOG, help=about)(data_option(command))


@click.command(epilog=EPILOG)
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--size",
    type=click.IntRange(min=8, max=256),
    help="Pixels a side; default: the median of the pictures' shorter sides, at most 64.",
)
@click.option(
    "--split",
    metavar="PART=FOLDER,…",
    help="Which folders are the parts train, validation and test, such as train=Fotos,test=eval; none: all are "
    "classes. Default: as their names say.",
)
@training_options
def folder(options: TrainingOptions, path: Path, size: int | None, split: str | None) -> None:
    """Train on your own pictures and write a model bundle.

    PATH is a folder or a .zip of PATH/CLASS/NAME.png, or of PATH/train/CLASS/NAME.png and likewise test and val.
    A part that is not there takes a tenth of each class's training pictures.
    """
    _train(options, lambda: _load_folder(path, options.classes, size, split))


COMMANDS = (*(set_command(name, wanted) for name, wanted in SETS.items()), folder)


def _load_set(name: str, data: str | None, classes: str | None, offline: bool = False) -> Dataset:
    from ffruntime.core.data import data_directory

    from ..dataset import load_dataset

    dataset = load_dataset(name, data_directory(data), classes, offline)
    if dataset.source.offline_sample:
        note = "as asked" if offline else "MNIST is not here and cannot be downloaded"
        say(f"OFFLINE SAMPLE ({note}): 5,000 real MNIST images instead of 70,000; results are not MNIST results")
    else:
        say(dataset.source.source)
    return dataset


def _load_folder(path: Path, classes: str | None, size: int | None, split: str | None) -> Dataset:
    from ..dataset import load_folder
    from ..tree import parse_parts

    dataset = load_folder(path, classes, size, None, None if split is None else parse_parts(split), say)
    say(dataset.source.source)
    return dataset


def _train(options: TrainingOptions, load: Callable[[], Dataset]) -> None:
    started = time.monotonic()
    check_length(options)
    import_torch(options.threads)
    from ffruntime.lock import writing

    from ..hardware import find_hardware, join, leave, rank
    from ..pack import check_target

    hardware = find_hardware(options.device, options.precision)
    target = Path(options.out) if Path(options.out).name else Path(options.out).resolve()
    join(hardware.device)
    if rank() == 0:
        check_target(target, options.resume, options.force)
    with writing(target) if rank() == 0 else nullcontext():
        _train_alone(options, load, target, hardware, started)
    leave()


def _train_alone(
    options: TrainingOptions, load: Callable[[], Dataset], target: Path, hardware: Hardware, started: float
) -> None:
    """Train into `target`, which no other process writes meanwhile."""
    import torch

    from ..hardware import compute_exactly, rank
    from ..override import parse_override
    from ..pack import check_target
    from ..recipe import load_recipe, with_epochs
    from ..run import estimate, start
    from ..ways import parse_way, prepare

    if rank() == 0:  # once more: until now another process may have written there
        check_target(target, options.resume, options.force)
    name, why = asked_recipe(options, target)
    recipe = with_epochs(load_recipe(name, map(parse_override, options.settings)), options.epochs)
    dataset = load()
    if options.resume and not recipe.schedule.epochs:
        raise UsageError("--resume and 0 epochs exclude each other: there is nothing to go on with")
    compute_exactly()
    way = parse_way(options.step, hardware.device)
    prepare(way)

    def measured(recipe: Recipe) -> tuple[Run, Costs]:
        run = start(recipe, dataset, options.seed, torch.device(hardware.device), hardware.dtype, way)
        return run, estimate(run)

    run, costs = measured(recipe)
    if chosen := choose_recipe(run, options, costs, started):
        before, (name, why) = name, chosen
        if name != before:
            run, costs = measured(load_recipe(name))
    changed = f", with {' '.join(options.settings)}" if options.settings else ""
    say(f"recipe {name}: {why}{changed}; {hardware.name}, {hardware.precision}")
    with _hint_on_interrupt(target):
        begun = time.monotonic()
        _train_run(run, target, options, costs, started)
        if rank() == 0:
            summary = _pack(run, target, name, hardware.name, hardware.precision)
            _print_summary({**summary, "seconds": round(time.monotonic() - begun, 1)}, options.as_json)


def _train_run(run: Run, target: Path, options: TrainingOptions, costs: Costs, started: float) -> None:
    """Train for as long as the options say; minutes count from when the command was `started`."""
    from ..hardware import rank, world
    from ..network import parameter_count
    from ..run import train

    untrained = run.total == 0 and options.steps is None
    length, time_needed, limit = train_for(run, options, costs, started)
    processes = f", {world()} processes" if world() > 1 else ""
    say(
        f"{run.dataset.source.train} images × {length}, {parameter_count(run.network):,} parameters{processes}: "
        f"{time_needed} from start to end{' (a part is done)' if options.resume else ''}"
    )
    if untrained:
        return
    with stop_on_signal() as stop:
        statuses = train(run, target, options.resume, stop, limit)
        if rank() == 0:
            show_training(statuses, run.steps_per_epoch)
        else:
            for _ in statuses:  # the first process shows them
                pass


def _pack(run: Run, target: Path, name: str, device: str, precision: str) -> dict[str, Any]:
    import torch

    from ..checkpoint import checkpoint_path
    from ..class_statistics import Made, gather, with_statistics
    from ..dataset import on_device
    from ..evaluation import accuracies, calibrate, predict
    from ..pack import pack_run
    from ..recipe import learning_of
    from ..typicality import gather_units
    from ..weighing import weigh_logits

    source, made, kind = run.dataset.source, None, run.recipe.statistics
    scores, far, measured, weight, calibration, typical = {}, {}, {}, 0.0, None, None
    if run.history or run.recipe.network.filters == "edges":  # else nothing that answers was made
        say(f"evaluating: all validation images{', then the test images, once' if kind.counted else ''}")
        classes, parts = len(run.dataset.classes), ("train", "validation", "test")[: 3 if kind.counted else 2]
        splits = {part: on_device(getattr(run.dataset, part), run.device) for part in parts}
        for part in parts[1:]:
            scores[part] = predict(run.network, run.tensors, splits[part], classes, torch.float32, run.modes)
        rows, validation = scores["validation"], splits["validation"]
        if {"goodness", "classifier"} <= rows.keys():
            weight = weigh_logits(rows["goodness"], rows["classifier"], validation.labels.cpu().numpy())
        if len(validation.labels):
            if learning_of(run.recipe):
                train, trained = splits["train"], bool(run.history)
                made = gather(run.network, run.tensors, train, validation, rows, classes, kind, trained)
                for part, own in scores.items():
                    scores[part], found = with_statistics(made, run.network, run.tensors, splits[part], own)
                    if found is not None:
                        far[part] = found
            rows = scores["validation"]
            if far and made and made.how.together:
                whole = run.network, run.tensors, splits["train"], validation
                typical = gather_units(*whole, classes, made.how.dimension)
            units = (typical.distances, typical.known) if typical else ()
            away = far.get("validation")
            calibration = calibrate(run.network, run.tensors, validation, rows, weight, away, *units)
        if made and not kind.counted:  # what was measured, it knows when it has been shown as much
            made, scores, far = Made(made.how, made.how.none(classes)), {}, {}
        measured = {part: accuracies(rows, splits[part].labels) for part, rows in scores.items()}
    pack_run(target, run, name, device, precision, measured, weight, calibration, made, typical)
    checkpoint_path(target).unlink(missing_ok=True)
    _report(target, run.dataset, scores, far)
    return {
        "model": str(target),
        "data": source.source.partition(";")[0],
        "recipe": name,
        "accuracy": measured,
        "offline_sample": source.offline_sample,
    }


def _report(target: Path, dataset: Dataset, scores: dict[str, Scores], distances: dict[str, np.ndarray]) -> None:
    """Write the report; where that fails, say so: the bundle is complete, and the run has done its work."""
    try:
        import_extra("matplotlib")
        from ..report import write_report

        page = write_report(target, dataset, scores, distances)
    except Exception as error:
        say(f"warning: no report: {' '.join(str(error).split()) or type(error).__name__}; {target} is complete")
    else:
        say(f"report: {page}")


@contextmanager
def _hint_on_interrupt(target: Path) -> Iterator[None]:
    """Say how to go on with a run that was interrupted, or ended by SIGTERM, wherever that was."""
    from ..checkpoint import checkpoint_path

    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if checkpoint_path(target).exists():
            again = [part for part in sys.argv[1:] if part not in ("--force", "--resume")]
            say(f"the checkpoint is written; go on with: fftrain {shlex.join([*again, '--resume'])}")
        raise


def _print_summary(summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        echo(json.dumps(summary))
        return
    what = "of the OFFLINE SAMPLE" if summary["offline_sample"] else f"of {summary['data']}"
    for split, modes in summary["accuracy"].items():
        echo(f"{split:<10} {what}: " + ", ".join(f"{mode} {percent(a)}" for mode, a in modes.items()))
    echo(f"{summary['model']} written in {duration(summary['seconds'])}; next: ffexport")
