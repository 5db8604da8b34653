"""Every recipe that is shipped, and the rows of Scodellaro et al.'s three tables."""

from __future__ import annotations

import pytest

from ffruntime.core.architecture import Conv, Image, MaxPool
from ffruntime.core.errors import UsageError
from fftrain.patterns import make_patterns
from fftrain.recipe import Recipe, build_network, load_recipe, recipe_names

# Widths, kernel, batch, set of patterns, max-pooling; K where the paper names it.
ROWS = {
    "paper": ((128, 128, 128), 7, 50, 1, False),
    # Table 1
    "paper-128-5x5": ((128, 128, 128), 5, 50, 1, False),
    "paper-128-3x3-b25": ((128, 128, 128), 3, 25, 1, False),
    # Table 2
    "paper-32-3x3": ((32, 32, 32), 3, 50, 1, False),
    "paper-32-3x3-set2": ((32, 32, 32), 3, 50, 2, False),
    "paper-32-7x7-b25": ((32, 32, 32), 7, 25, 1, False),
    "paper-32-7x7-b25-set2": ((32, 32, 32), 7, 25, 2, False),
    "paper-64-3x3": ((64, 64, 64), 3, 50, 1, False),
    "paper-64-3x3-set2": ((64, 64, 64), 3, 50, 2, False),
    "paper-128-3x3": ((128, 128, 128), 3, 50, 1, False),
    "paper-128-3x3-set2": ((128, 128, 128), 3, 50, 2, False),
    # Table 3, without and with max-pooling; 128 of 7×7 and 64 of 3×3 without it are above
    "paper-128-7x7-pool": ((128, 128, 128), 7, 50, 1, True),
    "paper-16-5x5": ((16, 16, 16), 5, 50, 1, False),
    "paper-16-5x5-pool": ((16, 16, 16), 5, 50, 1, True),
    "paper-64-3x3-pool": ((64, 64, 64), 3, 50, 1, True),
    "paper-32-64-128-7x7": ((32, 64, 128), 7, 50, 1, False),
    "paper-32-64-128-7x7-pool": ((32, 64, 128), 7, 50, 1, True),
    "paper-16-32-64-7x7": ((16, 32, 64), 7, 50, 1, False),
    "paper-16-32-64-7x7-pool": ((16, 32, 64), 7, 50, 1, True),
    # The best K by width, and backpropagation
    "paper-32-7x7-k20": ((32, 32, 32), 7, 50, 1, False),
    "paper-64-7x7-k65": ((64, 64, 64), 7, 50, 1, False),
    "bp-baseline": ((16, 16, 16), 5, 50, 1, False),
}
INTENSITY = {"paper-32-7x7-k20": 0.20, "paper-64-7x7-k65": 0.65, "bp-baseline": 0.0}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_makes_a_network_for_its_images(name: str) -> None:
    """Of digits, or where it is for CIFAR-10, colours."""
    recipe = load_recipe(name)
    image = Image((3, 32, 32) if name.startswith(("cifar", "hinton-local")) else (1, 28, 28))
    rows = 10 + recipe.patterns.spare
    labels = make_patterns(recipe.patterns, 10, *image.shape[1:])
    assert len(next(iter(labels.values()))) == rows
    network = build_network(recipe, image, rows)
    assert len(network.units) == len(recipe.network.units)
    assert recipe.about
    assert "\n" not in recipe.about


def convolutions(recipe: Recipe) -> list[Conv]:
    return [op for unit in recipe.network.units for op in unit.ops if isinstance(op, Conv)]


@pytest.mark.parametrize("name", ROWS)
def test_the_rows_of_the_paper(name: str) -> None:
    recipe = load_recipe(name)
    widths, kernel, batch, patterns, pooled = ROWS[name]
    assert tuple(op.out for op in convolutions(recipe)) == widths
    assert {(op.kernel, op.padding, op.stride) for op in convolutions(recipe)} == {(kernel, kernel // 2, 1)}
    assert (recipe.schedule.batch, recipe.schedule.epochs, recipe.schedule.falls) == (batch, 200, "epoch")
    assert recipe.patterns.set == patterns  # type: ignore[union-attr]
    assert recipe.patterns.intensity == INTENSITY.get(name, 0.35)  # type: ignore[union-attr]
    places = [[type(op) for op in unit.ops].index(MaxPool) for unit in recipe.network.units if len(unit.ops) == 3]
    assert places == ([1, 1] if pooled else [])
    assert len(recipe.network.units[2].ops) == 2


def test_every_recipe_of_the_paper_is_in_the_table() -> None:
    assert {name for name in recipe_names() if name.startswith(("paper", "bp-"))} == set(ROWS)


def test_what_backpropagation_has_of_its_own() -> None:
    recipe = load_recipe("bp-baseline")
    assert type(recipe.loss).__name__ == "CrossEntropy"
    assert recipe.schedule.lr == recipe.schedule.head_lr == 1e-3
    assert all(unit.trained for unit in recipe.network.units)


def test_numbers_in_names_count_as_numbers() -> None:
    names = recipe_names()
    assert names.index("paper") < names.index("paper-16-5x5") < names.index("paper-128-3x3") < names.index("sample")


def test_a_trained_unit_needs_weights() -> None:
    first = ("network.units.0", {"ops": [{"op": "relu"}], "trained": True})
    with pytest.raises(UsageError, match="unit1 is trained, but has no weights"):
        build_network(load_recipe("paper", [first]), Image((1, 28, 28)), 12)
