"""Ways to run a training step: the same result but for rounding, whatever is fused, laid out or taken together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from msgspec import structs
from narrow import narrow

import fftrain.run
from ffruntime.core.data import Examples
from ffruntime.core.errors import BackendError, UsageError
from fftrain.dataset import Dataset, on_device
from fftrain.epoch import epoch_batches
from fftrain.recipe import Recipe
from fftrain.run import Run, start, train
from fftrain.step import training_step
from fftrain.ways import PLAIN, TOGETHER, Way, grouped, one_by_one, parse_way

CPU = torch.device("cpu")


def after(way: Way, recipe: Recipe, dataset: Dataset, steps: int = 4) -> Run:
    """A run after some steps."""
    run = start(recipe, dataset, 0, CPU, torch.float32, way)
    batches = epoch_batches(on_device(dataset.train, CPU), recipe, 0, 0, skip=0)
    reports = one_by_one(training_step)(run, [next(batches) for _ in range(steps)], torch.tensor(0.0))
    assert reports[:-1].isfinite().all()
    return run


@pytest.mark.slow
def test_channels_first_or_last_train_alike(dataset: Dataset) -> None:
    """What is compiled does, too: the dry run of `benchmarks/gpu.py` compares them."""
    recipe = narrow("paper")
    plain, other = after(PLAIN, recipe, dataset), after(Way(channels_last=False), recipe, dataset)
    first = start(recipe, dataset, 0, CPU, torch.float32)
    for name, tensor in plain.tensors.items():
        torch.testing.assert_close(other.tensors[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    assert not torch.equal(plain.tensors["unit2.conv1.weight"], first.tensors["unit2.conv1.weight"])


def test_a_way_is_words() -> None:
    assert parse_way("auto", "cuda") == parse_way("graph", "cuda") == Way(graph=1)
    assert parse_way("auto", "cpu") == parse_way("plain", "cpu") == PLAIN
    assert parse_way("graphs,compiled,tuned", "cuda") == Way(TOGETHER, "inductor", tuned=True)
    assert parse_way("plain,nchw", "cuda") == Way(channels_last=False)
    with pytest.raises(UsageError, match=r"grahp.* did you mean 'graph'"):
        parse_way("grahp", "cuda")
    with pytest.raises(BackendError, match="a CUDA GPU's"):
        parse_way("graph", "cpu")


def test_groups_end_between_two_looks() -> None:
    assert list(map(len, grouped(iter(range(60)), 25, 0, None))) == [25, 25, 10]
    assert list(map(len, grouped(iter(range(60)), 25, 20, 40))) == [5, 25, 10]
    assert [n for group in grouped(iter(range(60)), 25, 7, 45) for n in group] == list(range(45))
    assert list(grouped(iter(range(60)), 1, 3, 0)) == []


@pytest.mark.slow
def test_steps_taken_together_are_the_same_steps(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of a little more than an epoch, its steps in groups as on a GPU, beside one step after the other."""
    monkeypatch.setattr(fftrain.run, "several", lambda step, _count: one_by_one(step))
    recipe, runs = narrow("paper"), []
    recipe = structs.replace(recipe, schedule=structs.replace(recipe.schedule, batch=5))
    parts = {"train": (dataset.train, 150), "validation": (dataset.validation, 10)}
    few = {name: Examples(part.pixels[:n], part.labels[:n]) for name, (part, n) in parts.items()}
    for way in (PLAIN, Way(graph=TOGETHER)):
        run = start(recipe, structs.replace(dataset, **few), 0, CPU, torch.float32, way)
        run.total = 40
        statuses = list(train(run, tmp_path / f"{way.graph}.ff", False, lambda: False))
        assert [(s.epoch, s.step) for s in statuses] == [(0, 25), (0, 30), (1, 10)]
        runs.append(run)
    for name, tensor in runs[0].tensors.items():
        assert torch.equal(runs[1].tensors[name], tensor), name
    losses = [[row["loss"] for row in run.history] for run in runs]
    assert losses[0] == [pytest.approx(of_units, rel=1e-5) for of_units in losses[1]]
