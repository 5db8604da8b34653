"""The shipped recipes with networks that a test trains in seconds."""

from __future__ import annotations

from fftrain.override import Override
from fftrain.recipe import Recipe, load_recipe, with_epochs


def narrow(name: str) -> Recipe:
    """The recipe with layers of 12 neurons or channels, or of one per pixel and small fields, for two epochs."""
    layers = f"network.units.*.{'inputs.*.' if load_recipe(name).network.steps else ''}ops"
    fields: list[Override] = [(f"{layers}.*.out", 12)]
    if "local" in name:
        fields = [(f"{layers}.0.out", 1), (f"{layers}.0.kernel", 3), (f"{layers}.0.padding", 1)]
    if name in ("hinton-local", "hinton-local-high"):  # the label reaches every neuron
        fields += [("network.units.1.inputs.1.ops.0.out", 28 * 28)]
        fields += [("network.steps.count", 3), ("network.steps.score", [2, 2])]
    return with_epochs(load_recipe(name, fields), 2)
