"""A sweep's trials as they run: each trains with every seed of a point, and is measured on validation images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import torch
from msgspec import Struct, to_builtins
from msgspec.structs import replace
from optuna.exceptions import StorageInternalError
from optuna.trial import Trial

from ffruntime.core.data import Examples, data_directory
from ffruntime.core.errors import FFError, StorageError, UsageError

from .checkpoint import checkpoint_path
from .dataset import Dataset, load_dataset, load_folder, on_device
from .display import duration, percent, say, show_training
from .evaluation import accuracy
from .recipe import Recipe
from .run import start, train
from .sets import SETS
from .study import Space, alone, beating, complete, draw_values, fail, position, put_back, take
from .sweep_table import show_values


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


def load_some(name: str, data: str | None, offline: bool, train: int | None, validation: int | None) -> Dataset:
    """The data set with so many of its images to train on and to validate with, and without its test images."""
    if name not in SETS and Path(name).exists():
        dataset = load_folder(Path(name), tell=say)
    else:
        dataset = load_dataset(name, data_directory(data), offline=offline)
    if dataset.source.offline_sample:
        say("OFFLINE SAMPLE: 5,000 real MNIST images instead of 70,000; results are not MNIST results")

    def some(split: Examples, count: int | None) -> Examples:
        order = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(0))[:count]
        return split.take(order)

    return replace(
        dataset,
        train=some(dataset.train, train),
        validation=some(dataset.validation, validation),
        test=some(dataset.test, 0),
    )


def run_trials(sweeping: Sweeping) -> None:
    """Run trials until none is left to begin. Raises `KeyboardInterrupt` when asked to stop."""
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
        except Exception as error:  # a trial that fails does not end the sweep
            line = " ".join(str(error).split())
            line = line if isinstance(error, FFError) else f"{type(error).__name__}: {line}"
            fail(study, trial, line)
            say(f"failed: {line}")
    raise KeyboardInterrupt


def _run_trial(sweeping: Sweeping, trial: Trial) -> None:
    """Train with every seed that the trial has not been trained with yet, and record what each gave."""
    values = trial.user_attrs.get("values") or draw_values(trial, sweeping.space)
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
    source = sweeping.dataset.source
    data = [source.source, source.content, len(sweeping.dataset.train.labels), str(sweeping.dtype)]
    whole = json.dumps([point, to_builtins(recipe), seed, data], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def _train(sweeping: Sweeping, recipe: Recipe, seed: int, out: Path) -> dict[str, Any]:
    """One run from start, or from its checkpoint, to end: accuracy on the validation images by inference mode."""
    run = start(recipe, sweeping.dataset, seed, sweeping.device, sweeping.dtype)
    if sweeping.space and sweeping.objective not in run.modes:
        raise UsageError(f"this recipe trains for no {sweeping.objective}: choose --objective {run.modes[0]}")
    statuses = train(run, out, checkpoint_path(out).exists(), sweeping.stop)
    show_training(statuses, run.steps_per_epoch)
    validation = on_device(sweeping.dataset.validation, sweeping.device)
    classes = len(sweeping.dataset.classes)
    measured = accuracy(run.network, run.tensors, validation, classes, torch.float32, modes=run.modes)
    figures = ", ".join(f"{mode} {percent(share)}" for mode, share in measured.items())
    say(f"{len(validation.labels):,} validation images: {figures}; trained for {duration(run.seconds)}")
    return {"epochs": recipe.schedule.epochs, "seconds": round(run.seconds, 1), **measured}
