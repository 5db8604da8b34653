"""The compared networks: the same layers, divided into units in one way or the other."""

from __future__ import annotations

import pytest
from robustness import PUBLISHED, summary, system

from ffruntime.core.architecture import Linear

SETTINGS = [("schedule.epochs", 2), ("schedule.lr", 3e-4)]


@pytest.mark.parametrize(("name", "units"), [("intff", [3, 2]), ("ff", [1] * 5), ("bp", [1] * 5)])
def test_the_same_layers_in_other_units(name: str, units: list[int]) -> None:
    recipe = system(name, SETTINGS)
    layers = [[op.out for op in unit.ops if isinstance(op, Linear)] for unit in recipe.network.units]
    assert [len(unit) for unit in layers] == units
    assert [out for unit in layers for out in unit] == [200, 200, 200, 50, 50]
    assert recipe.schedule.epochs == 2
    assert recipe.schedule.lr == 3e-4
    assert recipe.schedule.head_lr == (3e-4 if name == "bp" else 0)


def test_backpropagation_reads_the_last_layer_alone() -> None:
    assert [unit.scored for unit in system("bp", SETTINGS).network.units] == [False] * 4 + [True]


def test_mean_and_deviation_over_seeds() -> None:
    runs = {"1": {"test": 0.95}, "2": {"test": 0.97}}
    assert summary(PUBLISHED["bp"], runs) == {"published": 93.83, "mean": 96.0, "deviation": 1.41}
    assert summary(None, {"1": {"test": 0.95}})["deviation"] is None
