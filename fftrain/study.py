"""A sweep: the points that a grid or a search tries, and their trials in an Optuna storage, which several processes
and machines share and which is kept when they end.

Every point of a sweep is a waiting trial that any process may take. A trial whose process was interrupted or has
died is put back under a new number, with what it has; its checkpoint is where it was. Two processes that plan the
same sweep at once may plan a point twice: of two trials of one point the one with the lower number is run.
"""

from __future__ import annotations

import itertools
import json
import math
import sqlite3
import threading
import time
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

import msgspec
import optuna
from filelock import FileLock, Timeout
from msgspec import Struct
from optuna.exceptions import (
    DuplicatedStudyError,
    ExperimentalWarning,
    StorageInternalError,
    UpdateFinishedTrialError,
)
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from ffruntime.core.errors import UsageError, unknown

from .override import parse_override, parse_value

BEAT_SECONDS = 60.0
DEAD_SECONDS = 15 * BEAT_SECONDS  # without a beat, a process on another machine has died

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.simplefilter("ignore", ExperimentalWarning)


# What is tried


class Range(Struct, frozen=True):
    """All numbers from `low` to `high`, both included; whole numbers where both are. `log`: evenly by ratio."""

    low: float
    high: float
    log: bool = False


Space: TypeAlias = dict[str, "Range | tuple[Any, ...]"]  # what a search draws each field from


class Point(Struct, frozen=True):
    """One trial that is to be made. `values` by field; a search has none before the trial begins."""

    key: str
    values: dict[str, Any] | None
    seeds: tuple[int, ...]


class Result(Struct, frozen=True):
    """What a trial gave: accuracy on the validation images by inference mode, one for each seed."""

    values: dict[str, Any]
    accuracy: dict[str, tuple[float, ...]]


def parse_grid(text: str) -> tuple[str, tuple[Any, ...]]:
    """`FIELD=A,B,C` -> (field, values). Raises `UsageError`."""
    field, _ = parse_override(text)
    listed = text.partition("=")[2]
    values = parse_value(f"[{listed}]")
    if not isinstance(values, list):  # not all of them are TOML
        values = [parse_value(part) for part in listed.split(",")]
    if not values or "" in values:
        raise UsageError(f"--grid {text}: expected FIELD=VALUE,VALUE,…, such as schedule.batch=25,50")
    return field, tuple(values)


def parse_search(text: str) -> tuple[str, Range | tuple[Any, ...]]:
    """`FIELD=LOW..HIGH[:log]` or `FIELD=A,B,C` -> (field, what to draw from). Raises `UsageError`."""
    field, values = parse_grid(text)
    bounds, _, scale = text.partition("=")[2].partition(":")
    low, dots, high = bounds.partition("..")
    if not dots:
        if any(isinstance(value, dict | list) for value in values):
            raise UsageError(f"--search {text}: expected numbers, strings or true and false to choose from")
        return field, values
    try:
        whole = low.strip().lstrip("+-").isdecimal() and high.strip().lstrip("+-").isdecimal()
        number = int if whole else float
        found = Range(number(low), number(high), scale == "log")
    except ValueError as error:
        raise UsageError(f"--search {text}: {error}") from error
    finite = -math.inf < found.low < found.high < math.inf
    if scale not in ("", "log") or not finite or (found.log and found.low <= 0):
        raise UsageError(f"--search {text}: expected FIELD=LOW..HIGH or FIELD=LOW..HIGH:log, with 0 < LOW for log")
    return field, found


def grid_points(grid: Mapping[str, Sequence[Any]], seeds: int) -> list[Point]:
    """Every combination of the values, each with every seed from 0 on; the first field changes slowest."""
    combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return [
        Point(f"{json.dumps(values, sort_keys=True)} seed {seed}", values, (seed,))
        for values in combinations
        for seed in range(seeds)
    ]


def search_points(trials: int, seeds: int) -> list[Point]:
    """So many trials; each is the mean over its seeds, which the sampler then sees."""
    return [Point(f"trial {number}", None, tuple(range(seeds))) for number in range(trials)]


# Trials in a storage


def open_storage(url: str, create: bool) -> BaseStorage:
    """Any Optuna storage: an SQLAlchemy URL, or a path ending in `.log`, which suits network file systems.

    Raises `UsageError` where it cannot be opened, or where it is a file that there is not.
    """
    path = Path(url.removeprefix("sqlite:///"))
    is_file = url.startswith("sqlite:///") or url.endswith(".log")
    if is_file and not create and not path.exists():
        raise UsageError(f"--storage {url}: there is no file {path}; `fftrain sweep run` makes it")
    if is_file and path.is_file() and not url.endswith(".log"):
        _require_studies(path)
    try:
        if url.endswith(".log"):
            return JournalStorage(JournalFileBackend(url))
        patience = {"connect_args": {"timeout": 60}} if url.startswith("sqlite:") else {}
        return RDBStorage(url, engine_kwargs=patience)
    except Exception as error:  # SQLAlchemy, its drivers and Optuna each have their own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(f"--storage {url}: cannot be opened: {reason[0]}") from error


def _require_studies(path: Path) -> None:
    """Raise `UsageError` for a database with tables, but not Optuna's: opening it would add these."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except (sqlite3.Error, UnicodeError) as error:
        raise UsageError(f"--storage {path}: cannot be opened: {error}") from error
    if tables and "studies" not in tables:
        raise UsageError(f"--storage {path}: a database of another program; name another file")


def _require_ours(study: optuna.Study) -> optuna.Study:
    """The study, if every trial that is done was planned here; else a `UsageError`."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if not {"point", "seeds", "runs", "values"} <= trial.user_attrs.keys() or not trial.user_attrs["runs"]:
            raise UsageError(f"study '{study.study_name}' was not made by `fftrain sweep`; choose another --study")
    return study


def open_study(storage: BaseStorage, name: str) -> optuna.Study:
    """The study of that name. Raises `UsageError` where there is none."""
    names = optuna.get_all_study_names(storage)
    if name not in names:
        raise unknown("study", name, names)
    return _require_ours(optuna.load_study(study_name=name, storage=storage))


def make_study(storage: BaseStorage, name: str, settings: dict[str, Any]) -> optuna.Study:
    """The study of that name, made if need be.

    `settings` are what all its trials have in common. Raises `UsageError` if it was made with others.
    """
    plain = msgspec.json.decode(msgspec.json.encode(settings))
    try:
        study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
    except DuplicatedStudyError:
        study = _require_ours(optuna.load_study(study_name=name, storage=storage))
    before = study.user_attrs.get("settings")
    if before is None:
        study.set_user_attr("settings", plain)
    elif different := [key for key, value in plain.items() if before.get(key) != value]:
        raise UsageError(f"study '{name}' was made with another {' and '.join(different)}; choose another --study")
    return study


@contextmanager
def working(folder: Path) -> Iterator[str]:
    """Within it, this process is known as a living one by the name that is yielded: it holds a lock in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    name = uuid.uuid4().hex
    with FileLock(_lock_file(folder, name)):
        yield name
    _lock_file(folder, name).unlink(missing_ok=True)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within it, no other process that works in `folder` adds or takes trials; SQLite would let two take one."""
    with FileLock(folder / "plan.lock"):
        yield


def add_points(study: optuna.Study, points: Iterable[Point]) -> None:
    """Add the points that the study does not have yet, to be run by whoever comes first."""
    planned = {trial.user_attrs["point"] for trial in _trials(study)}
    for point in points:
        if point.key not in planned:
            values = {} if point.values is None else {"values": point.values}
            study.enqueue_trial({}, user_attrs={"point": point.key, "seeds": point.seeds, "runs": [], **values})


def take(study: optuna.Study, folder: Path, worker: str) -> Trial | None:
    """The next trial, or None where nothing is left to begin. Trials of processes that have died are put back.

    The sampler is seeded by the number of trials begun, so that no two processes draw alike.
    """
    for running in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _has_died(running, folder):
            put_back(study, running)
    while study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        begun = sum(t.state != TrialState.WAITING for t in study.get_trials(deepcopy=False))
        study.sampler = TPESampler(seed=begun, multivariate=True, constant_liar=True)
        trial = study.ask()
        trial.set_user_attr("worker", worker)
        point = trial.user_attrs.get("point")  # none: another machine took the last one, and Optuna made one up
        if point and not any(t.number < trial.number and t.user_attrs["point"] == point for t in _trials(study)):
            return trial
        _drop(study, trial.number)
    return None


def put_back(study: optuna.Study, trial: Trial | FrozenTrial) -> None:
    """End a trial that has not ended, and let another one of the same point wait, with the runs that are done."""
    kept = {name: value for name, value in trial.user_attrs.items() if name in ("point", "seeds", "runs", "values")}
    if _drop(study, trial.number):
        study.enqueue_trial(trial.params, user_attrs=kept)


def fail(study: optuna.Study, trial: Trial, line: str) -> None:
    """Record why a trial could not be made; it is not tried again."""
    trial.set_user_attr("error", line)
    study.tell(trial, state=TrialState.FAIL)


def complete(study: optuna.Study, trial: Trial, objective: str) -> None:
    """Record a trial whose runs are done; its value is their mean by `objective`, or by the classifier alone."""
    study.tell(trial, fmean(run.get(objective, run.get("classifier")) for run in trial.user_attrs["runs"]))


def draw_values(trial: Trial, space: Space) -> dict[str, Any]:
    """Values for a search's trial, by TPE (Bergstra et al. 2011, as Optuna has it)."""
    return {field: _suggest(trial, field, choice) for field, choice in space.items()}


def _suggest(trial: Trial, field: str, choice: Range | Sequence[Any]) -> Any:
    if not isinstance(choice, Range):
        return trial.suggest_categorical(field, choice)
    if isinstance(choice.low, int) and isinstance(choice.high, int):
        return trial.suggest_int(field, choice.low, choice.high, log=choice.log)
    return trial.suggest_float(field, choice.low, choice.high, log=choice.log)


def position(study: optuna.Study, trial: Trial) -> tuple[int, int]:
    """(which of the study's points this trial is, from 1; how many there are)."""
    points = list(dict.fromkeys(t.user_attrs.get("point") for t in study.get_trials(deepcopy=False)))
    return points.index(trial.user_attrs["point"]) + 1, len(points) - (None in points)


def results(study: optuna.Study) -> list[Result]:
    """What the trials that are complete gave, in the order in which they were planned."""
    found = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        runs = trial.user_attrs["runs"]
        modes = [mode for mode in ("classifier", "goodness") if mode in runs[0]]
        found.append(Result(trial.user_attrs["values"], {mode: tuple(run[mode] for run in runs) for mode in modes}))
    return found


def count_points(study: optuna.Study) -> tuple[int, int]:
    """(points that are done, points that are planned)."""
    trials = _trials(study)
    done = {trial.user_attrs["point"] for trial in trials if trial.state == TrialState.COMPLETE}
    return len(done), len({trial.user_attrs["point"] for trial in trials})


def errors(study: optuna.Study) -> list[str]:
    """The lines of the trials that failed."""
    return [trial.user_attrs["error"] for trial in _trials(study) if trial.state == TrialState.FAIL]


@contextmanager
def beating(trial: Trial) -> Iterator[None]:
    """Within it, the storage is told every minute that the trial's process lives."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT_SECONDS):
            with suppress(StorageInternalError, OSError):  # the next one may come through
                trial.set_user_attr("beat", time.time())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count: one for each point, but for those that two machines planned at once."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if "point" in trial.user_attrs and (trial.state != TrialState.FAIL or "error" in trial.user_attrs)
    ]


def _drop(study: optuna.Study, number: int) -> bool:
    """End a trial that counts no more; False where another process has ended it."""
    try:
        study.tell(number, state=TrialState.FAIL)
    except (ValueError, UpdateFinishedTrialError):
        return False
    return True


def _has_died(trial: FrozenTrial, folder: Path) -> bool:
    """Whether the process that runs a trial is gone: its lock is free or, on another machine, it is silent."""
    file = _lock_file(folder, trial.user_attrs.get("worker", "none"))
    if not file.exists():
        assert trial.datetime_start
        return time.time() - trial.user_attrs.get("beat", trial.datetime_start.timestamp()) > DEAD_SECONDS
    try:
        with FileLock(file, timeout=0):
            return True
    except Timeout:
        return False


def _lock_file(folder: Path, worker: str) -> Path:
    return folder / f"{worker}.worker"
