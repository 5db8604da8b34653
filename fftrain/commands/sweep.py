"""`fftrain sweep`: many values of any recipe field, and what they gave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ffruntime.command import Count, echo
from ffruntime.core.errors import FFError, StorageError, UsageError

from ..display import say, stop_on_signal
from .shared import data_option, device_option, import_extra, import_torch, offline_option, threads_option

if TYPE_CHECKING:
    import optuna

    from ..recipe import Recipe
    from ..sweep_table import SweepRow

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
@click.option("--recipe", metavar="NAME|FILE", help="What is swept; default: class.")
@click.option(
    "--grid", "grids", multiple=True, metavar="FIELD=A,B,…", help="All combinations; or recipe=NAME,NAME,…"
)
@click.option(
    "--search", "searches", multiple=True, metavar="FIELD=LOW..HIGH[:log]", help="Search with TPE; or FIELD=A,B,…"
)
@click.option("--trials", type=Count(1), default=20, show_default=True, help="Of a search, in all.")
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE", help="Set a field for all trials.")
@click.option("--epochs", type=Count(1), help="Instead of the recipe's.")
@click.option("--train-images", type=Count(1), help="Train on so many only; default: all.")
@click.option("--validation-images", type=Count(1), help="Compare on so many only; default: all.")
@click.option("--seeds", type=Count(1), default=1, show_default=True, help="Runs of each combination or trial.")
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
@data_option
@offline_option
@device_option
@threads_option
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
    import_extra("optuna")
    from msgspec import to_builtins
    from optuna.exceptions import StorageInternalError

    from ..hardware import compute_exactly, find_hardware
    from ..override import parse_override
    from ..recipe import DEFAULT_RECIPE, load_recipe
    from ..study import (
        Range,
        add_points,
        alone,
        grid_points,
        make_study,
        open_storage,
        parse_grid,
        parse_search,
        search_points,
        working,
    )
    from ..trials import Sweeping, load_some, run_trials

    grid, space = dict(map(parse_grid, grids)), dict(map(parse_search, searches))
    if bool(grid) == bool(space):
        raise UsageError("a sweep needs --grid or --search, and not both")
    points = grid_points(grid, seeds) if grid else search_points(trials, seeds)
    hardware = find_hardware(device)
    name = recipe or DEFAULT_RECIPE
    overrides = [parse_override(text) for text in settings]
    if epochs is not None:
        overrides.append(("schedule.epochs", epochs))

    def resolve(values: dict[str, Any]) -> Recipe:
        swept = [(field, value) for field, value in values.items() if field != "recipe"]
        return load_recipe(values.get("recipe", name), [*overrides, *swept])

    ends = [{f: (c.low, c.high)[i] if isinstance(c, Range) else c[-i] for f, c in space.items()} for i in (0, 1)]
    for values in [point.values for point in points if point.values is not None] + ends:
        resolve(values)  # a field that there is not is said before the work
    images = load_some(dataset, data, offline, train_images, validation_images)
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
            add_points(found, points)
        where, dtype = torch.device(hardware.device), hardware.dtype
        sweeping = Sweeping(found, folder, worker, images, resolve, space, objective, where, dtype, stop)
        try:
            run_trials(sweeping)
        except KeyboardInterrupt:
            say("what is done is kept, the trial under way too; the same command goes on with it")
            raise
        except StorageInternalError as error:
            raise StorageError(f"--storage {storage}: {' '.join(str(error.__cause__ or error).split())}") from error
    _say_how_it_ended(found, f"fftrain sweep show --storage {storage} --study {study}")


def _say_how_it_ended(study: optuna.Study, next_command: str) -> None:
    from ..study import count_points, errors

    done, planned = count_points(study)
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
    import_extra("optuna")
    from ..study import open_storage, open_study, results
    from ..sweep_table import (
        average_seeds,
        choose_axes,
        flat_row,
        sweep_table,
        swept_fields,
        table_csv,
        table_text,
    )

    suffix = Path(out).suffix if out else None
    if suffix not in (None, ".png", ".html"):
        raise UsageError(f"--out {out}: expected a name ending in .png or .html")
    found = open_study(open_storage(storage, create=False), study)
    done = results(found)
    if not done:
        raise UsageError(f"study '{study}': no trial is done yet")
    fields, search = swept_fields(done), bool(found.user_attrs["settings"]["search"])
    names, column = choose_axes(fields, rows, columns, pair=not search)
    order = [*names, *([column] if column else [])]
    ordered = average_seeds(done, order)
    if search and not rows:
        objective = found.user_attrs["settings"]["objective"]
        ordered.sort(key=lambda row: -row.accuracy[objective][0])
    lines = sweep_table(ordered, names, column)
    if out:
        _write_figure(Path(out), f"Sweep {study}", lines, ordered, order, joined=not search)
    if as_json:
        for row in ordered:
            echo(json.dumps(flat_row(row, fields)))
    else:
        echo(table_csv(ordered, fields).rstrip() if as_csv else table_text(lines))


def _write_figure(
    path: Path, title: str, lines: list[list[str]], rows: list[SweepRow], fields: list[str], joined: bool
) -> None:
    """The rows drawn over the first of `fields`, `joined` by lines or not."""
    from ffruntime.core.durable import write_atomically

    from ..sweep_figure import draw_sweep, sweep_html, sweep_png

    x, *others = fields
    figure = draw_sweep(rows, x, others if joined else None)
    write_atomically(path, sweep_png(figure) if path.suffix == ".png" else sweep_html(figure, title, lines))
    say(f"{path} written")
