"""How much arithmetic training is, counted from recipe and description; nothing is measured."""

from __future__ import annotations

from ffruntime.core.architecture import Network, unit_name
from ffruntime.core.cost import constant_macs, goodness_macs, head_macs, layer_macs, pass_macs

from .optimizer import trained_parts
from .recipe import CrossEntropy, Recipe


def training_macs(recipe: Recipe, network: Network) -> int:
    """Multiply-accumulates of training on one image once: convolutions and matrix products, no optimizer.

    By Forward-Forward: a pass for the image with its right label and with each wrong one, and of each, gradients of
    the trained weights and, within a unit of several layers, of their inputs; where gradients cross units, of the
    inputs of every layer but the first. The linear classifier takes one more pass, but not where images have no
    labels, and negatives that are chosen by goodness one for every pattern. Where units are trained one after the
    other, it is the mean over the training. A recurrent network does so in every step, after one pass from below;
    its inputs count as of one layer each, and what no step changes once: of the image, and of each of its labels.
    """
    units, head = layer_macs(network), head_macs(network)
    forward = sum(map(sum, units))
    parts = trained_parts(recipe, network)
    trained = [layers for index, layers in enumerate(units) if unit_name(index) in parts]
    if isinstance(recipe.loss, CrossEntropy):
        return forward + head + _gradients([*trained, (head,)])
    if recipe.gradient == "crossing":
        gradients = _gradients(trained)
    else:
        gradients = sum(_gradients([layers]) for layers in trained)
        if recipe.schedule.order == "sequential":
            gradients //= len(trained)  # of one unit at a time, each for the same share of the training
    own_pass = 0 if recipe.negatives.source == "hybrid" else pass_macs(network)
    classifier = own_pass + 2 * head if "head" in parts else 0
    chosen = recipe.negatives.hard > 0 and recipe.negatives.source == "goodness"
    choice = goodness_macs(network, network.label.patterns) if chosen else 0
    if network.steps:
        (image, label), copies = constant_macs(network), 1 + recipe.negatives.count
        first, last = unit_name(0) in parts, unit_name(len(units) - 1) in parts
        once = (1 + first) * image + copies * (1 + last) * label
        changing = forward - image - label + sum(map(sum, trained)) - first * image - last * label
        return copies * network.steps.count * changing + once + pass_macs(network) + classifier + choice
    return (1 + recipe.negatives.count) * (forward + gradients) + classifier + choice


def _gradients(units: list[tuple[int, ...]]) -> int:
    """Gradients through layers that follow each other: of all weights, and of all inputs but the first layer's."""
    layers = [macs for unit in units for macs in unit]
    return sum(layers) + sum(layers[1:])
