"""How long a training command trains, and by which recipe where none is asked for."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, json

from ffruntime.core.errors import UsageError

from ..display import duration

if TYPE_CHECKING:
    from ..clock import Costs, Limit
    from ..run import Run

MINUTES = 15.0  # from start to end, where nothing is asked for
KIND = "class goodness (layer-local classifiers): one pass tells all classes"
BEST = f"{KIND}; the best in a first run's time"


class TrainingOptions(Struct, frozen=True):
    """What every training command is told (`OPTIONS`)."""

    recipe: str | None
    settings: tuple[str, ...]
    out: str
    classes: str | None
    epochs: int | None
    minutes: float | None
    steps: int | None
    seed: int
    device: str
    precision: str
    step: str
    threads: int | None
    resume: bool
    force: bool
    as_json: bool


def asked_recipe(options: TrainingOptions, target: Path) -> tuple[str, str]:
    """(the recipe to begin with, why): the one asked for, the one of an interrupted run, or the default."""
    from ..checkpoint import checkpoint_path, read_checkpoint
    from ..hardware import from_first, rank
    from ..recipe import DEFAULT_RECIPE, QUICK_RECIPE, load_recipe

    if options.recipe:
        return options.recipe, "as asked"
    if options.resume:
        begun = from_first(read_checkpoint(checkpoint_path(target))[0].recipe if rank() == 0 else None)
        if json.encode(begun) == json.encode(load_recipe(QUICK_RECIPE)):
            return QUICK_RECIPE, "as it was begun"
    return DEFAULT_RECIPE, BEST


def choose_recipe(run: Run, options: TrainingOptions, costs: Costs, started: float) -> tuple[str, str] | None:
    """Where nothing but time is asked for: (the recipe that tells most in it, why), the same in all processes.

    `run` is of the default recipe, its steps measured (`costs`).
    """
    from ..clock import Limit, steps_in_time
    from ..hardware import from_first
    from ..recipe import DEFAULT_RECIPE, FEWEST, QUICK_RECIPE

    asked = options.recipe or options.settings or options.resume
    if asked or options.epochs is not None or options.steps is not None:
        return None
    limit = Limit(60 * (options.minutes or MINUTES) - (time.monotonic() - started), costs)
    steps = from_first(steps_in_time(limit, costs, 0, 0, run.steps_per_epoch, 0))
    enough = run.total if options.minutes is None and run.total else steps + 1
    if steps < min(FEWEST, enough):
        few = f"fewer than {FEWEST:,} steps of recipe {DEFAULT_RECIPE} (here about {steps:,})"
        return QUICK_RECIPE, f"{KIND}; the smaller network, which learns more in the time of {few}"
    return DEFAULT_RECIPE, f"{BEST}, here of about {min(steps, enough):,} steps"


def check_length(options: TrainingOptions) -> None:
    """Raise `UsageError` where options contradict each other about how long to train."""
    given = [name for name in ("epochs", "minutes", "steps") if getattr(options, name) is not None]
    if len(given) > 1:
        raise UsageError(f"--{given[0]} and --{given[1]} exclude each other")


def train_for(run: Run, options: TrainingOptions, costs: Costs, started: float) -> tuple[str, str, Limit | None]:
    """(how long it is, what that takes, what bounds it); sets the run's number of steps, where it is known."""
    from ..clock import Limit
    from ..run import estimate_seconds

    if options.steps is not None:
        run.total = options.steps
        return f"{options.steps:,} steps", f"about {duration(estimate_seconds(run, costs))}", None
    whole, estimated = f"{run.epochs} epochs", f"about {duration(estimate_seconds(run, costs))}"
    asked_otherwise = options.recipe or options.epochs is not None
    if not run.total or (options.minutes is None and asked_otherwise):
        return whole, estimated, None
    minutes, enough = (MINUTES, run.total) if options.minutes is None else (options.minutes, None)
    run.total = None
    limit = Limit(60 * minutes - (time.monotonic() - started), costs, enough)
    if enough is None:
        return "what there is time for", f"{minutes:g} minutes", limit
    return f"{whole} at most", f"{estimated}, {minutes:g} minutes at most,", limit
