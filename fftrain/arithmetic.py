"""How much arithmetic training is, counted from recipe and description; nothing is measured."""

from __future__ import annotations

from ffruntime.architecture import Network
from ffruntime.cost import head_macs, layer_macs

from .recipe import CrossEntropy, Recipe


def training_macs(recipe: Recipe, network: Network) -> int:
    """Multiply-accumulates of training once on one image: convolutions and matrix products, no optimizer.

    By Forward-Forward: a pass for the image with its right label and with each wrong one, and of each, gradients of
    the trained weights and, within a unit of several layers, of their inputs; crossing gradients need the inputs'
    of every layer above the lowest that is trained. The linear classifier takes one more pass; negatives that are
    chosen by goodness take one for every pattern.
    """
    units, head = layer_macs(network), head_macs(network)
    forward = sum(map(sum, units))
    trained = [layers for unit, layers in zip(network.units, units, strict=True) if unit.trained]
    if isinstance(recipe.loss, CrossEntropy):
        return 2 * (forward + head) + _inputs([*units, (head,)])
    gradients = sum(map(sum, trained))
    if recipe.gradient == "crossing":
        lowest = [unit.trained for unit in network.units].index(True)
        gradients += _inputs(units[lowest:])
    else:
        gradients += sum(_inputs([layers]) for layers in trained)
    classifier = forward + 2 * head if recipe.schedule.head_lr else 0
    chosen = recipe.negatives.hard > 0 and recipe.negatives.source == "goodness"
    choice = network.label.patterns * forward if chosen else 0
    return (1 + recipe.negatives.count) * (forward + gradients) + classifier + choice


def _inputs(units: list[tuple[int, ...]]) -> int:
    """Gradients of the layers' inputs, down to the second layer."""
    return sum([macs for layers in units for macs in layers][1:])
