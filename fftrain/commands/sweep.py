"""`fftrain sweep`: many values of any recipe field, and what they gave."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from ffruntime.core.errors import FFError, MissingExtra, StorageError, UsageError

from .common import import_torch, say, stop_on_signal

if TYPE_CHECKING:
    import optuna
    import torch
    from optuna.trial import Trial

    from ..data import Dataset
    from ..recipe import Recipe
    from ..sweep import Row, Space

RUN_EPILOG = """\b
Examples:
  fftrain sweep run mnist --recipe paper-16-5x5 --epochs 5 --study widths \\
      --grid 'network.units.*.ops.0.out=16,32' --grid patterns.set=1,2 --seeds 3
  fftrain sweep run mnist --recipe cpu --study rate --trials 20 --train-images 10000 \\
      --search schedule.lr=1e-4..1e-2:log --search negatives.hard=0.0..1.0
  fftrain sweep run mnist --study table1 --grid recipe=paper-128-5x5,paper-128-3x3-b25

\b
The same command goes on with a sweep that was ended; in other processes and on other machines that reach
the storage, it takes part in it. Run it with one --work folder on each machine, or on a shared file system.

\b
Exit codes: 0 done, 1 every trial failed, and other errors, 2 usage, 5 data set, 6 no such device,
8 cannot write, 130 interrupted."""

SHOW_EPILOG = """\b
Examples:
  fftrain sweep show --study widths
  fftrain sweep show --study widths --rows patterns.set --out widths.png
  fftrain sweep show --study rate --rows schedule.lr --out rate.html --csv > rate.csv"""


def _import_optuna() -> None:
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise MissingExtra("optuna", "train") from error


storage_option = click.option(
    "--storage",
    metavar="URL",
    default="sqlite:///sweep.db",
    show_default=True,
    help="Where trials are kept: any Optuna storage, or FILE.log, which suits network file systems.",
)
study_option = click.option("--study", metavar="NAME", default="sweep", show_default=True, help="The sweep's name.")


@click.group()
def sweep() -> None:
    """Train with many values of recipe fields, and compare them on the validation images."""


@sweep.command(epilog=RUN_EPILOG)
@click.argument("dataset", metavar="DATASET|DIR")
@click.option("--recipe", metavar="NAME|FILE", help="What is swept; default: by the hardware.")
@click.option(
    "--grid", "grids", multiple=True, metavar="FIELD=A,B,…", help="All combinations; or recipe=NAME,NAME,…"
)
@click.option(
    "--search", "searches", multiple=True, metavar="FIELD=LOW..HIGH[:log]", help="Search with TPE; or FIELD=A,B,…"
)
@click.option("--trials", type=click.IntRange(min=1), default=20, show_default=True, help="Of a search, in all.")
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE", help="Set a field for all trials.")
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the recipe's.")
@click.option("--train-images", type=click.IntRange(min=1), help="Train on so many only; default: all.")
@click.option("--validation-images", type=click.IntRange(min=1), help="Compare on so many only; default: all.")
@click.option(
    "--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Runs of each combination or trial."
)
@click.option(
    "--objective",
    type=click.Choice(["goodness", "classifier"]),
    default="goodness",
    show_default=True,
    help="The validation accuracy that a search maximises.",
)
@storage_option
@study_option
@click.option("--work", metavar="DIR", default="sweeps", show_default=True, help="Where trials' checkpoints go.")
@click.option("--data", metavar="DIR", help="Where the data set lies or goes; default: $FF_DATA, else the cache.")
@click.option("--offline", is_flag=True, help="Use the offline sample of real MNIST; needs no network.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default: all cores.")
def run(
    dataset: str,
    recipe: str | None,
    grids: tuple[str, ...],
    searches: tuple[str, ...],
    trials: int,
    settings: tuple[str, ...],
    epochs: int | None,
    train_images: int | None,
    validation_images: int | None,
    seeds: int,
    objective: str,
    storage: str,
    study: str,
    work: str,
    data: str | None,
    offline: bool,
    device: str,
    threads: int | None,
) -> None:
    """Train a network for every point of a grid, or for the points a search comes to.

    On a data set by name, such as mnist, or on a folder or .zip of pictures. The test images are never read:
    what a sweep is for is chosen on the validation images.
    """
    torch = import_torch(threads)
    _import_optuna()
    from msgspec import to_builtins
    from optuna.exceptions import StorageInternalError

    from ..hardware import compute_exactly, default_recipe, find_hardware
    from ..override import parse_override
    from ..recipe import load_recipe
    from ..study import alone, make_study, open_storage, plan, working
    from ..sweep import Range, grid_points, parse_grid, parse_search, search_points

    grid, space = dict(map(parse_grid, grids)), dict(map(parse_search, searches))
    if bool(grid) == bool(space):
        raise UsageError("a sweep needs --grid or --search, and not both")
    points = grid_points(grid, seeds) if grid else search_points(trials, seeds)
    hardware = find_hardware(device)
    name = recipe or default_recipe(hardware, offline)[0]
    overrides = [parse_override(text) for text in settings]
    if epochs is not None:
        overrides.append(("schedule.epochs", epochs))

    def resolve(values: dict[str, Any]) -> Recipe:
        swept = [(field, value) for field, value in values.items() if field != "recipe"]
        return load_recipe(values.get("recipe", name), [*overrides, *swept])

    ends = [{f: (c.low, c.high)[i] if isinstance(c, Range) else c[-i] for f, c in space.items()} for i in (0, 1)]
    for values in [point.values for point in points if point.values is not None] + ends:
        resolve(values)  # a field that there is not is said before the work
    images = _load(dataset, data, offline, train_images, validation_images)
    common = {
        "recipe": overrides if "recipe" in {**grid, **space} else to_builtins(resolve({})),
        "data set": images.source.source,
        "number of images": (len(images.train.labels), len(images.validation.labels)),
        "objective": objective,
        "search": space,
    }
    compute_exactly()
    folder = Path(work) / study
    with working(folder) as worker, stop_on_signal() as stop:
        with alone(folder):
            found = make_study(open_storage(storage, create=True), study, common)
            plan(found, points)
        where, dtype = torch.device(hardware.device), hardware.dtype
        sweeping = Sweeping(found, folder, worker, images, resolve, space, objective, where, dtype, stop)
        try:
            _run_trials(sweeping)
        except KeyboardInterrupt:
            say("what is done is kept, the trial under way too; the same command goes on with it")
            raise
        except StorageInternalError as error:
            raise StorageError(f"--storage {storage}: {' '.join(str(error.__cause__ or error).split())}") from error
    _say_how_it_ended(found, f"fftrain sweep show --storage {storage} --study {study}")


class Sweeping(Struct, frozen=True):
    """What every trial of this process needs. `resolve`: swept values -> recipe; `stop`: asked by the user."""

    study: optuna.Study
    folder: Path
    worker: str
    dataset: Dataset
    resolve: Callable[[dict[str, Any]], Recipe]
    space: Space
    objective: str
    device: torch.device
    dtype: torch.dtype
    stop: Callable[[], bool]


def _load(name: str, data: str | None, offline: bool, train: int | None, validation: int | None) -> Dataset:
    """The data set with so many of its images to train on and to validate with, and without its test images."""
    import torch
    from msgspec.structs import replace

    from ffruntime.core.data import Examples, data_directory

    from ..data import SETS, load_dataset, load_folder

    if name not in SETS and Path(name).exists():
        dataset = load_folder(Path(name))
    else:
        dataset = load_dataset(name, data_directory(data), offline=offline)
    if dataset.source.offline_sample:
        say("OFFLINE SAMPLE: 5,000 real MNIST images instead of 70,000; results are not MNIST results")

    def some(split: Examples, count: int | None) -> Examples:
        order = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(0))[:count]
        return Examples(split.pixels[order], split.labels[order])

    return replace(
        dataset,
        train=some(dataset.train, train),
        validation=some(dataset.validation, validation),
        test=some(dataset.test, 0),
    )


def _run_trials(sweeping: Sweeping) -> None:
    """Run trials until none is left to begin. Raises `KeyboardInterrupt` when asked to stop."""
    from optuna.exceptions import StorageInternalError

    from ..study import alone, beating, complete, fail, put_back, take

    study, folder = sweeping.study, sweeping.folder
    while not sweeping.stop():
        with alone(folder):
            trial = take(study, folder, sweeping.worker)
        if trial is None:
            return
        try:
            with beating(trial):
                _run_trial(sweeping, trial)
            complete(study, trial, sweeping.objective)
        except (KeyboardInterrupt, StorageError):
            put_back(study, trial)
            raise
        except StorageInternalError:
            raise
        except Exception as error:  # what one network dies of, the next one need not
            line = " ".join(str(error).split())
            line = line if isinstance(error, FFError) else f"{type(error).__name__}: {line}"
            fail(study, trial, line)
            say(f"failed: {line}")
    raise KeyboardInterrupt


def _run_trial(sweeping: Sweeping, trial: Trial) -> None:
    """Train with every seed that the trial has not been trained with yet, and record what each gave."""
    from ..checkpoint import checkpoint_path
    from ..study import draw, position
    from ..sweep import show_values

    values = trial.user_attrs.get("values") or draw(trial, sweeping.space)
    trial.set_user_attr("values", values)
    recipe = sweeping.resolve(values)
    runs = trial.user_attrs["runs"]
    for seed in trial.user_attrs["seeds"][len(runs) :]:
        number, of = position(sweeping.study, trial)
        say(f"trial {number} of {of}: {show_values(values)} seed={seed}")
        out = sweeping.folder / _run_name(sweeping, trial.user_attrs["point"], recipe, seed)
        runs = [*runs, {"seed": seed, **_train(sweeping, recipe, seed, out)}]
        trial.set_user_attr("runs", runs)
        checkpoint_path(out).unlink(missing_ok=True)


def _run_name(sweeping: Sweeping, point: str, recipe: Recipe, seed: int) -> str:
    """A name that nothing but the very same run has, so that its checkpoint is found again."""
    from msgspec import to_builtins

    data = [sweeping.dataset.source.source, len(sweeping.dataset.train.labels), str(sweeping.dtype)]
    whole = json.dumps([point, to_builtins(recipe), seed, data], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def _train(sweeping: Sweeping, recipe: Recipe, seed: int, out: Path) -> dict[str, Any]:
    """One run from start, or from its checkpoint, to end: accuracy on the validation images by inference mode."""
    import torch

    from ..checkpoint import checkpoint_path
    from ..data import on_device
    from ..display import duration, percent, show
    from ..evaluate import accuracy
    from ..train import start, train

    run = start(recipe, sweeping.dataset, seed, sweeping.device, sweeping.dtype)
    if sweeping.space and sweeping.objective not in run.modes:
        raise UsageError(f"this recipe trains for no {sweeping.objective}: choose --objective {run.modes[0]}")
    reports = train(run, out, checkpoint_path(out).exists(), sweeping.stop)
    show(reports, run.steps_per_epoch, recipe.schedule.epochs)
    validation = on_device(sweeping.dataset.validation, sweeping.device)
    classes = len(sweeping.dataset.classes)
    measured = accuracy(run.network, run.tensors, validation, classes, torch.float32, modes=run.modes)
    figures = ", ".join(f"{mode} {percent(share)}" for mode, share in measured.items())
    say(f"{len(validation.labels):,} validation images: {figures}; trained for {duration(run.seconds)}")
    return {"epochs": recipe.schedule.epochs, "seconds": round(run.seconds, 1), **measured}


def _say_how_it_ended(study: optuna.Study, next_command: str) -> None:
    from ..study import count, errors

    done, planned = count(study)
    failed = errors(study)
    if failed and len(failed) == planned:
        raise FFError(f"every trial failed; the last: {failed[-1]}")
    say(f"{done} of {planned} trials are done{f', {len(failed)} failed' if failed else ''}; next: {next_command}")


@sweep.command(epilog=SHOW_EPILOG)
@storage_option
@study_option
@click.option("--rows", metavar="FIELD", help="The table's rows, and the plot's axis; default: the first swept.")
@click.option("--columns", metavar="FIELD", help="The table's columns; default: the second swept, of a grid.")
@click.option("--out", metavar="FILE", help="Write the plot (.png), or the table and the plot (.html).")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON, one object a line.")
@click.option("--csv", "as_csv", is_flag=True, help="Print the rows as CSV.")
def show(
    storage: str,
    study: str,
    rows: str | None,
    columns: str | None,
    out: str | None,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Print a sweep's table: linear classifier / goodness, in per cent of the validation images.

    A figure with ± is a mean over seeds and its standard deviation. A search's trials come best first.
    """
    _import_optuna()
    from .. import sweep as s
    from ..study import open_storage, open_study, results

    suffix = Path(out).suffix if out else None
    if suffix not in (None, ".png", ".html"):
        raise UsageError(f"--out {out}: expected a name ending in .png or .html")
    found = open_study(open_storage(storage, create=False), study)
    done = results(found)
    if not done:
        raise UsageError(f"study '{study}': no trial is done yet")
    fields, search = s.swept_fields(done), bool(found.user_attrs["settings"]["search"])
    names, column = s.axes(fields, rows, columns, pair=not search)
    order = [*names, *([column] if column else [])]
    ordered = s.average(done, order)
    if search and not rows:
        objective = found.user_attrs["settings"]["objective"]
        ordered.sort(key=lambda row: -row.accuracy[objective][0])
    lines = s.table(ordered, names, column)
    if out:
        _write_figure(Path(out), f"Sweep {study}", lines, ordered, order, joined=not search)
    if as_json:
        for row in ordered:
            click.echo(json.dumps(s.flat(row, fields)))
    else:
        click.echo(s.table_csv(ordered, fields).rstrip() if as_csv else s.table_text(lines))


def _write_figure(
    path: Path, title: str, lines: list[list[str]], rows: list[Row], fields: list[str], joined: bool
) -> None:
    """The rows drawn over the first of `fields`, `joined` by lines or not."""
    from ffruntime.core.durable import write_atomically

    from ..sweep_figure import draw, to_html, to_png

    x, *others = fields
    figure = draw(rows, x, others if joined else None)
    write_atomically(path, to_png(figure) if path.suffix == ".png" else to_html(figure, title, lines))
    say(f"{path} written")
