"""Which recipe is taken where nothing but time is asked for, and how such a run goes on and is repeated."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest
import torch
from commands import in_process_text
from msgspec import structs

from ffruntime.core.bundle import Bundle
from ffruntime.core.data import Examples
from fftrain.checkpoint import checkpoint_path
from fftrain.clock import Costs
from fftrain.commands.length import TrainingOptions, asked_recipe, choose_recipe
from fftrain.dataset import Dataset
from fftrain.recipe import FEWEST, load_recipe
from fftrain.run import Interrupted, Run, start, train

NOTHING = dict.fromkeys(TrainingOptions.__struct_fields__) | {"settings": (), "resume": False}
fftrain = partial(in_process_text, "fftrain")


def options(**asked: object) -> TrainingOptions:
    """Nothing but what is asked for."""
    return TrainingOptions(**{**NOTHING, **asked})


def run_of(name: str, dataset: Dataset, images: int = 640) -> Run:
    few = structs.replace(dataset, train=Examples(dataset.train.pixels[:images], dataset.train.labels[:images]))
    return start(load_recipe(name), few, 0, torch.device("cpu"), torch.float32)


def steps_in(minutes: float, steps: float) -> Costs:
    """Of a machine that does so many steps in the minutes."""
    return Costs(60 * minutes / steps, 0.0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "steps", "taken"),
    [
        ({"minutes": 5.0}, FEWEST / 2, "micro"),
        ({"minutes": 5.0}, FEWEST * 2, "class"),
        ({"minutes": 5.0, "recipe": "class"}, FEWEST / 2, None),
        ({"minutes": 5.0, "settings": ("schedule.lr=1e-3",)}, FEWEST / 2, None),
        ({"minutes": 5.0, "resume": True}, FEWEST / 2, None),
        ({"epochs": 1}, FEWEST / 2, None),
        ({"steps": 1}, FEWEST / 2, None),
    ],
    ids=str,
)
def test_the_smaller_network_where_there_is_time_for_few_steps(
    asked: dict[str, object], steps: float, taken: str | None, dataset: Dataset
) -> None:
    chosen = choose_recipe(run_of("class", dataset), options(**asked), steps_in(5, steps), time.monotonic())
    assert (chosen and chosen[0]) == taken
    assert chosen is None or ("fewer than" in chosen[1]) == (taken == "micro")


def test_what_is_whole_in_the_time_is_not_made_smaller(dataset: Dataset) -> None:
    """Few pictures: all epochs of the default recipe are fewer steps than decide."""
    run = run_of("class", dataset, images=64)
    assert run.total == 20
    for steps, taken in ((FEWEST / 2, "class"), (15, "micro")):
        chosen = choose_recipe(run, options(), steps_in(15, steps), time.monotonic())
        assert chosen
        assert chosen[0] == taken


@pytest.mark.parametrize("name", ["class", "micro"])
def test_an_interrupted_run_goes_on_as_it_was_begun(name: str, dataset: Dataset, tmp_path: Path) -> None:
    run = run_of(name, dataset, images=64)
    with pytest.raises(Interrupted):
        list(train(run, tmp_path / "model.ff", False, lambda: True))
    assert checkpoint_path(tmp_path / "model.ff").exists()
    assert asked_recipe(options(resume=True), tmp_path / "model.ff")[0] == name


@pytest.mark.slow
def test_a_bundle_says_what_repeats_it(tmp_path: Path) -> None:
    """Six seconds, of which packing takes more: the smaller network, and a single step."""
    rest = ("--offline", "--device", "cpu", "--threads", "1")
    done = fftrain("mnist", *rest, "--minutes", "0.1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "recipe micro: class goodness" in done.stderr
    first = Bundle(tmp_path / "model.ff").manifest
    name, steps = first.training.recipe_name, first.training.steps
    again = fftrain("mnist", *rest, "--recipe", name, "--steps", steps, "--out", "again.ff", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert Bundle(tmp_path / "again.ff").manifest.files == first.files
