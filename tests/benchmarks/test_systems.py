"""The papers' systems: each is a recipe, and a bundle by another recipe does not count as trained."""

from __future__ import annotations

from pathlib import Path

from systems import SYSTEMS, figures, is_trained

from fftrain.pack import pack_run
from fftrain.recipe import recipe_names, with_epochs
from fftrain.run import Run


def test_every_system_is_a_recipe() -> None:
    assert SYSTEMS.keys() <= set(recipe_names())


def test_what_is_trained_by_the_same_recipe_is_not_trained_again(trained_run: Run, tmp_path: Path) -> None:
    path = tmp_path / "model.ff"
    assert not is_trained(path, trained_run.recipe)
    accuracy = {"test": {"goodness": 0.5}}
    pack_run(path, trained_run, "tiny", "cpu", "fp32", accuracy)
    assert is_trained(path, trained_run.recipe)
    assert not is_trained(path, with_epochs(trained_run.recipe, 7))
    assert figures(path)["accuracy"] == accuracy
