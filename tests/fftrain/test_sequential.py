"""Units trained one after the other."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from msgspec import structs
from torch.utils.flop_counter import FlopCounterMode

from ffruntime.core.data import Examples
from ffruntime.core.errors import UsageError
from fftrain.dataset import Dataset
from fftrain.epoch import epoch_batches
from fftrain.figures import training_macs
from fftrain.recipe import Recipe, load_recipe
from fftrain.run import Run, start, train
from fftrain.step import training_step
from fftrain.training import learning_rates


def narrow(epochs: int, *more: tuple[str, object]) -> Recipe:
    fields = [("network.units.*.ops.0.out", 20), ("schedule.epochs", epochs), ("schedule.batch", 50)]
    return load_recipe("ff-mlp-sequential", [*fields, *more])


def new_run(recipe: Recipe, dataset: Dataset) -> Run:
    few = Examples(dataset.train.pixels[:500], dataset.train.labels[:500])
    smaller = structs.replace(dataset, train=few, validation=few)
    return start(recipe, smaller, 0, torch.device("cpu"), torch.float32)


def test_a_layer_begins_when_the_one_below_is_done(dataset: Dataset, tmp_path: Path) -> None:
    """Two epochs: in the first the first unit learns and the second does not, then the other way round."""
    run = new_run(narrow(2), dataset)
    seen = [{name: tensor.clone() for name, tensor in run.tensors.items()}]
    for report in train(run, tmp_path / "model.ff", False, lambda: False):
        if report.row:
            seen.append({name: tensor.clone() for name, tensor in run.tensors.items()})
            assert all(loss is not None for loss in report.row["loss"])
    for name, changes in {"unit1": [True, False], "unit2": [False, True], "head": [True, True]}.items():
        own = [n for n in run.tensors if n.startswith(f"{name}.")]
        changed = [any(not torch.equal(a[n], b[n]) for n in own) for a, b in pairwise(seen)]
        assert changed == changes, name


def test_each_unit_has_a_schedule_of_its_own(dataset: Dataset) -> None:
    run = new_run(narrow(4), dataset)
    rates = {
        passed: learning_rates(run.recipe, run.network, 0, passed) for passed in (0.0, 0.375, 0.5, 0.75, 0.875)
    }
    own = {passed: {n: f for n, f in found.items() if n != "head"} for passed, found in rates.items()}
    assert own[0.0] == {"unit1": 1}
    assert own[0.375] == {"unit1": 0.5}
    assert own[0.5] == own[0.75] == {"unit2": 1}
    assert own[0.875] == {"unit2": 0.5}
    assert [found["head"] for found in rates.values()] == [1, 1, 1, 0.5, 0.25]


def test_a_rate_that_falls_once_an_epoch_falls_within_its_unit(dataset: Dataset) -> None:
    run = new_run(narrow(4, ("schedule.falls", "epoch"), ("schedule.constant", 0.0)), dataset)
    steps = [(epoch / 4, (epoch + 0.9) / 4) for epoch in range(4)]
    rates = [learning_rates(run.recipe, run.network, *step) for step in steps]
    assert [rate.get("unit1") for rate in rates] == [1, 0.5, None, None]
    assert [rate.get("unit2") for rate in rates] == [None, None, 1, 0.5]


def test_the_arithmetic_is_the_mean_over_the_training(dataset: Dataset) -> None:
    """Counted as torch does it: one unit's gradients at a time."""
    run = new_run(narrow(2), dataset)
    done = []
    for unit in ("unit1", "unit2"):
        run.learning = frozenset({unit, "head"})
        batch = next(epoch_batches(run.dataset.train, run.recipe, 0, 0, skip=0))
        with FlopCounterMode(display=False) as counter:
            training_step(run, batch, torch.tensor(0.0))
        done.append(counter.get_total_flops() / 2 / 50)
    assert training_macs(run.recipe, run.network) == sum(done) / 2


def test_one_gradient_for_the_whole_network_has_no_sequence(dataset: Dataset) -> None:
    with pytest.raises(UsageError, match="units in sequence need gradients that stay in their unit"):
        new_run(narrow(2, ("gradient", "crossing")), dataset)
