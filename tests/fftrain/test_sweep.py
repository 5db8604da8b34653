"""Sweeps: what is tried, the table of it, and trials that survive whatever ends the processes that run them."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from ffruntime.core.errors import FFError, UsageError
from fftrain import study as trials
from fftrain import sweep_table as s
from fftrain.cli import cli
from fftrain.dataset import on_device
from fftrain.evaluation import accuracy
from fftrain.hardware import find_hardware
from fftrain.recipe import load_recipe
from fftrain.run import start, train
from fftrain.trials import load_some

TINY = str(Path(__file__).parents[1] / "tiny.toml")
SMALL = ("run", "mnist", "--recipe", TINY, "--device", "cpu", "--train-images", "640", "--validation-images", "200")
GRID = (*SMALL, "--epochs", "1", "--grid", "schedule.batch=32,64", "--grid", "negatives.hard=0.0,0.5")


def sweep(*arguments: object) -> Result:
    """The command, in this process."""
    return CliRunner().invoke(cli, ["sweep", *map(str, arguments)])


def launch(*arguments: object, cwd: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "fftrain", "sweep", *map(str, arguments), "--threads", "1"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=cwd, env={**os.environ})


def until(process: subprocess.Popen, words: str) -> str:
    """What it says on stderr up to the line that has these words."""
    said = ""
    assert process.stderr is not None
    for line in process.stderr:
        said += line
        if words in line:
            return said
    raise AssertionError(said)


# What is tried


FIELD = st.sampled_from(["schedule.batch", "negatives.count", "patterns.spare"])
GRIDS = st.dictionaries(FIELD, st.lists(st.integers(1, 99), min_size=1, max_size=4, unique=True), min_size=1)


@given(GRIDS, st.integers(1, 3))
def test_a_grid_has_every_combination_once(grid: dict[str, list[int]], seeds: int) -> None:
    read = dict(trials.parse_grid(f"{field}={','.join(map(str, values))}") for field, values in grid.items())
    assert read == {field: tuple(values) for field, values in grid.items()}
    points = trials.grid_points(read, seeds)
    count = seeds
    for values in grid.values():
        count *= len(values)
    assert len(points) == len({point.key for point in points}) == count
    assert all(point.values is not None and set(point.values) == set(grid) for point in points)


def test_values_of_a_grid_are_toml_or_words() -> None:
    assert trials.parse_grid("recipe=paper,cpu") == ("recipe", ("paper", "cpu"))
    assert trials.parse_grid("a=1,2.5,true") == ("a", (1, 2.5, True))
    assert trials.parse_grid("a=1,x") == ("a", (1, "x"))
    assert trials.parse_grid('a={ op = "conv", out = 3 },{ op = "relu" }')[1] == (
        {"op": "conv", "out": 3},
        {"op": "relu"},
    )


@given(st.integers(-99, 99), st.integers(1, 99), st.booleans())
def test_a_range_is_of_whole_numbers_where_its_ends_are(low: int, more: int, whole: bool) -> None:
    text = f"a={low}..{low + more}" if whole else f"a={low}..{low + more}.0"
    field, found = trials.parse_search(text)
    assert (field, found) == ("a", trials.Range(low, low + more))
    assert isinstance(found, trials.Range)
    assert isinstance(found.low, int) == whole


def test_ranges_and_choices_of_a_search() -> None:
    assert trials.parse_search("a=1e-4..1e-2:log") == ("a", trials.Range(1e-4, 1e-2, True))
    assert trials.parse_search("a=0.1..0.6") == ("a", trials.Range(0.1, 0.6))
    assert trials.parse_search("patterns.kind=fourier,random") == ("patterns.kind", ("fourier", "random"))


@pytest.mark.parametrize(
    "text", ["a", "=1", "a=", "a=3..1", "a=0..1:log", "a=1..2:lag", "a=x..y", "a=[1],[2]", "a=1..inf"]
)
def test_what_is_no_search_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        trials.parse_search(text)


# The table


def results() -> list[trials.Result]:
    def result(batch: int, kind: str, *shares: float) -> trials.Result:
        accuracy = {"classifier": shares, "goodness": (0.5,) * len(shares)}
        return trials.Result({"batch": batch, "kind": kind}, accuracy)

    return [result(50, "b", 0.9), result(50, "b", 0.8), result(25, "b", 0.7), result(25, "a", 0.25)]


def test_the_table_of_a_grid() -> None:
    rows = s.average_seeds(results(), ["batch", "kind"])
    assert s.sweep_table(rows, ["batch"], "kind") == [
        ["batch", "kind=b", "kind=a"],
        ["25", "70.00 / 50.00", "25.00 / 50.00"],
        ["50", "85.00 ± 7.07 / 50.00 ± 0.00", ""],
    ]
    assert s.sweep_table(rows, ["batch", "kind"], None)[1] == ["25", "b", "70.00 / 50.00"]
    assert s.table_text([["a", "bb"], ["ccc", ""]]) == "a    bb\nccc"


def test_what_makes_rows_and_columns() -> None:
    assert s.choose_axes(["a", "b", "c"], None, None, pair=True) == (["a", "c"], "b")
    assert s.choose_axes(["a", "b", "c"], "b", None, pair=True) == (["b", "a"], "c")
    assert s.choose_axes(["a", "b"], "b", None, pair=True) == (["b"], "a")
    assert s.choose_axes(["a", "b"], None, None, pair=False) == (["a", "b"], None)
    assert s.choose_axes(["a"], None, None, pair=True) == (["a"], None)
    for rows, columns in (("x", None), (None, "x"), ("a", "a")):
        with pytest.raises(UsageError):
            s.choose_axes(["a", "b"], rows, columns, pair=True)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.floats(0, 1)), min_size=1))
def test_every_run_is_in_exactly_one_row(runs: list[tuple[int, int, float]]) -> None:
    found = [trials.Result({"x": x, "y": y}, {"goodness": (share,)}) for x, y, share in runs]
    rows = s.average_seeds(found, ["x", "y"])
    assert sum(row.runs for row in rows) == len(runs)
    total = sum(row.runs * row.accuracy["goodness"][0] for row in rows)
    assert total == pytest.approx(sum(share for *_, share in runs))
    lines = s.sweep_table(rows, ["x"], "y")
    assert sum(cell != "" for line in lines[1:] for cell in line[1:]) == len(rows)


# Trials in a storage


@pytest.fixture
def study() -> optuna.Study:
    return trials.make_study(optuna.storages.InMemoryStorage(), "s", {"recipe": {"a": (1,)}})


def test_a_study_of_other_settings_is_refused(study: optuna.Study) -> None:
    trials.make_study(study._storage, "s", {"recipe": {"a": (1,)}})
    with pytest.raises(UsageError, match="another recipe"):
        trials.make_study(study._storage, "s", {"recipe": {"a": (2,)}})


def test_points_are_planned_once_and_taken_once(study: optuna.Study, tmp_path: Path) -> None:
    points = trials.grid_points({"a": (1, 2)}, 1)
    trials.add_points(study, points)
    trials.add_points(study, [*points, *trials.grid_points({"a": (3,)}, 1)])
    taken = [trials.take(study, tmp_path, "me") for _ in range(4)]
    assert [trial and trial.user_attrs["values"]["a"] for trial in taken] == [1, 2, 3, None]


def test_of_two_trials_of_one_point_the_first_is_run(study: optuna.Study, tmp_path: Path) -> None:
    """Two machines that plan at the same time do not see each other's trials."""
    for _ in range(2):
        study.enqueue_trial({}, user_attrs={"point": "p", "seeds": [0], "runs": [], "values": {"a": 1}})
    first = trials.take(study, tmp_path, "me")
    assert first is not None
    assert first.number == 0
    assert trials.take(study, tmp_path, "other") is None
    assert trials.count_points(study) == (0, 1)


def test_a_trial_of_a_living_process_is_left_and_of_a_dead_one_put_back(
    study: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials.add_points(study, trials.grid_points({"a": (1,)}, 1))
    with trials.working(tmp_path) as worker:
        trial = trials.take(study, tmp_path, worker)
        assert trial is not None
        trial.set_user_attr("runs", [{"seed": 0}])
        asked = subprocess.run([sys.executable, "-c", HAS_DIED, str(tmp_path)], capture_output=True, text=True)
        assert asked.stdout == "False\n", asked.stderr
        assert trials.take(study, tmp_path / "elsewhere", "other") is None  # its last beat is not long ago
    monkeypatch.setattr(trials, "DEAD_SECONDS", -1.0)
    again = trials.take(study, tmp_path / "elsewhere", "other")
    assert again is not None
    assert again.user_attrs["runs"] == [{"seed": 0}]
    assert again.number == 1


HAS_DIED = """
import sys
from pathlib import Path
import optuna
from fftrain.study import _has_died
(file,) = Path(sys.argv[1]).glob("*.worker")
trial = optuna.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs={"worker": file.stem})
print(_has_died(trial, file.parent))
"""


# The command


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A grid of 2 × 2, swept by two processes at once: its folder, and what the two said."""
    folder = tmp_path_factory.mktemp("swept")
    both = [launch(*GRID, "--study", "grid", cwd=folder) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    return folder, said


@pytest.mark.slow
def test_two_processes_share_a_grid_and_no_point_is_done_twice(swept: tuple[Path, list[str]]) -> None:
    folder, said = swept
    begun = [re.findall(r"trial (\d) of 4: (.*)", text) for text in said]
    assert sorted(number for found in begun for number, _ in found) == ["1", "2", "3", "4"]
    assert all(begun), "each of the two has done a part"
    study = trials.open_study(trials.open_storage(f"sqlite:///{folder}/sweep.db", create=False), "grid")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
    assert [path.name for path in (folder / "sweeps" / "grid").iterdir() if path.suffix != ".lock"] == []


@pytest.mark.slow
def test_show_prints_and_draws_the_table(swept: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(swept[0])
    text = sweep("show", "--study", "grid").stdout
    head, *lines = text.splitlines()
    assert head.split() == ["schedule.batch", "negatives.hard=0", "negatives.hard=0.5"]
    assert [re.match(r"(\d+)  +\d\d\.\d\d / \d\d\.\d\d  +\d\d\.\d\d / \d\d\.\d\d$", line)[1] for line in lines] == [
        "32",
        "64",
    ]
    rows = [json.loads(line) for line in sweep("show", "--study", "grid", "--json").stdout.splitlines()]
    assert {(row["schedule.batch"], row["negatives.hard"], row["runs"]) for row in rows} == {
        (32, 0, 1),
        (32, 0.5, 1),
        (64, 0, 1),
        (64, 0.5, 1),
    }
    as_csv = list(csv.DictReader(io.StringIO(sweep("show", "--study", "grid", "--csv").stdout)))
    assert [float(row["goodness"]) for row in as_csv] == [row["goodness"] for row in rows]
    for name, start_of_file in (("a.png", b"\x89PNG"), ("a.html", b"<!doctype html>")):
        assert sweep("show", "--study", "grid", "--rows", "negatives.hard", "--out", name).exit_code == 0
        assert Path(name).read_bytes().startswith(start_of_file)
    page = Path("a.html").read_text()
    assert "schedule.batch=32" in page
    assert "<svg" in page


@pytest.mark.slow  # most of them ask the sweep above
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "--storage", "sqlite:///none.db"), "there is no file none.db"),
        (("show", "--storage", "none.log"), "there is no file none.log"),
        (("show", "--storage", "none"), "cannot be opened"),
        (("show", "--study", "gird"), "did you mean 'grid'"),
        (("show", "--study", "grid", "--rows", "schedule.bach"), "did you mean 'schedule.batch'"),
        (("show", "--study", "grid", "--out", "a.pdf"), "expected a name ending in .png or .html"),
        (("run", "mnist"), "--grid or --search"),
        (("run", "mnist", "--grid", "schedule.lr=1", "--search", "schedule.lr=1..2"), "not both"),
        (("run", "mnist", "--grid", "schedule.rl=1"), "did you mean 'schedule.lr'"),
        (("run", "mnist", "--search", "schedule.batch=0..9"), "$.schedule.batch"),
        (("run", "minst", "--grid", "schedule.lr=1"), "did you mean 'mnist'"),
        ((*GRID, "--study", "grid", "--epochs", "2"), "made with another recipe"),
    ],
)
def test_wrong_words(
    arguments: tuple[str, ...], words: str, swept: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(swept[0])
    error = sweep(*arguments).exception
    assert isinstance(error, FFError)
    assert error.exit_code == 2
    assert words in str(error)
    assert "\n" not in str(error)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the sweeps here run: sums in another order are other sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.posix
def test_a_sweep_that_is_interrupted_and_then_killed_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Ctrl-C in the first trial, kill -9 in the second; what is run then goes on from both checkpoints."""
    command = (*SMALL, "--grid", "schedule.batch=16,20", "--epochs", "3")
    process = launch(*command, cwd=tmp_path)
    until(process, "epoch   1/3")
    process.send_signal(signal.SIGINT)
    assert "the same command goes on" in process.communicate()[1]
    assert process.returncode == 130
    process = launch(*command, cwd=tmp_path)
    assert "trial 1 of 2" not in until(process, "trial 2 of 2")  # what waits longest comes first
    until(process, "epoch   1/3")
    process.kill()
    process.communicate()
    process = launch(*command, cwd=tmp_path)
    said = process.communicate()[1]
    assert process.returncode == 0, said
    assert said.count("epoch   3/3") == 2
    assert "epoch   1/3" not in said
    assert "2 of 2 trials are done" in said
    found = trials.results(trials.open_study(trials.open_storage(f"sqlite:///{tmp_path}/sweep.db", False), "sweep"))
    dataset, dtype = load_some("mnist", None, False, 640, 200), find_hardware("cpu").dtype
    for result, batch in zip(found, (16, 20), strict=True):
        recipe = load_recipe(TINY, [("schedule.batch", batch)])
        run = start(recipe, dataset, 0, torch.device("cpu"), dtype)
        for _ in train(run, tmp_path / "whole", False, lambda: False):
            pass
        validation = on_device(dataset.validation, run.device)
        measured = accuracy(run.network, run.tensors, validation, 10, torch.float32)
        assert result.values == {"schedule.batch": batch}
        assert result.accuracy == {mode: (share,) for mode, share in measured.items()}


@pytest.mark.slow
def test_a_search_keeps_to_its_ranges_and_can_be_made_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    search = (
        "--search",
        "schedule.lr=1e-3..1e-2:log",
        "--search",
        "negatives.count=1..2",
        "--set",
        "patterns.spare=0",
    )
    common = (*SMALL, "--epochs", "1", "--train-images", "128", *search, "--storage", "trials.log")
    for count in (2, 3):
        done = sweep(*common, "--trials", count)
        assert done.exit_code == 0, done.output
        assert f"{count} of {count} trials are done" in done.stderr
    rows = [json.loads(line) for line in sweep("show", "--storage", "trials.log", "--json").stdout.splitlines()]
    assert len({row["schedule.lr"] for row in rows}) == 3
    assert all(1e-3 <= row["schedule.lr"] <= 1e-2 and row["negatives.count"] in (1, 2) for row in rows)
    assert rows == sorted(rows, key=lambda row: -row["goodness"])
    assert sweep("show", "--storage", "trials.log", "--out", "a.png").exit_code == 0


@pytest.mark.slow
def test_a_trial_that_fails_does_not_end_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    common = (*SMALL, "--epochs", "1", "--train-images", "128", "--seeds", "2")
    done = sweep(*common, "--grid", "network.units.0.ops.0.kernel=55,5")
    assert done.exit_code == 0, done.output
    assert "failed: recipe does not fit" in done.stderr
    assert "2 of 4 trials are done, 2 failed" in done.stderr
    assert " ± " in sweep("show").stdout
    failed = sweep(*common, "--grid", "network.units.0.ops.0.kernel=55", "--study", "none")
    assert isinstance(failed.exception, FFError)
    assert failed.exception.exit_code == 1
    assert "every trial failed; the last: recipe does not fit" in str(failed.exception)
    assert not list(tmp_path.rglob("*.checkpoint"))


@pytest.mark.slow
def test_recipes_can_be_swept_and_the_test_images_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = load_some("mnist", None, False, 100, None)
    assert len(dataset.train.labels) == 100
    assert len(dataset.test.labels) == len(dataset.test.pixels) == 0
    smaller = ("--set", "network.units.*.ops.0.out=2", "--epochs", "1", "--train-images", "100")
    done = sweep(*SMALL, *smaller, "--grid", "recipe=paper-16-5x5,bp-baseline")
    assert done.exit_code == 0, done.output
    paper, baseline = (line.split() for line in sweep("show").stdout.splitlines()[1:])
    assert (paper[0], baseline[0], baseline[-1]) == ("paper-16-5x5", "bp-baseline", "–")  # which has no goodness
