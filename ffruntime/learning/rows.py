"""Class goodness: a class that was never seen takes a spare row in the readout of every unit.

The row begins where the mean feature of the class's first examples says (imprinting: Qi et al. 2018), and learns
from there. No graph puts features out, but a readout's gradient is made of them: where all examples have one label,
its row's gradient is a multiple of their mean feature, and the bias's gradient is that multiple.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.data import Examples, to_unit_interval
from ..core.layers import KNOWN, readout_parameters
from ..embedding import class_input
from ..model import Model
from .step import Arrays, Chain

MOST = 64  # examples of a class that its mean feature is of


def begin_rows(model: Model, weights: Arrays, classes: Sequence[Examples], micro_batch: int) -> None:
    """Make the rows of new classes known, in place in `weights`: of those that are not, among the labels of
    `classes`, each of which are examples of one class.

    A row points from the mean feature of the other classes to that of its own. Its length and its bias are those
    with which its goodness at both is what known rows have there, on average. `model` lends its gradient graphs.
    """
    network, known = model.manifest.network, weights[KNOWN] > 0
    labels = [int(some.labels[0]) for some in classes]
    new = [place for place, label in enumerate(labels) if not known[label]]
    old = [place for place, label in enumerate(labels) if known[label]]
    if not new:
        return
    features = [mean_features(model, weights, some, micro_batch) for some in classes]
    for index in features[0] if old else ():
        own = np.stack([means[index] for means in features])  # (K, F)
        others = (own.sum(0) - own) / (len(own) - 1)  # (K, F)
        weight, bias = (weights[tensor.name] for tensor in readout_parameters(network, index))
        rows, offsets = weight[[labels[place] for place in old]], bias[[labels[place] for place in old]]
        high, low = (float(np.mean((rows * at[old]).sum(1) + offsets)) for at in (own, others))
        for place in new:
            direction = own[place] - others[place]
            row = direction * ((high - low) / float(direction @ direction))
            weight[labels[place]], bias[labels[place]] = row, high - row @ own[place]
    weights[KNOWN][[labels[place] for place in new]] = 1


def mean_features(model: Model, weights: Arrays, examples: Examples, micro_batch: int) -> dict[int, np.ndarray]:
    """The mean normalised feature (F,) of some examples in each unit that learns, by the unit's index."""
    network = model.manifest.network
    probe, found = dict(weights), dict[int, np.ndarray]()
    chain = Chain(model, micro_batch)
    probe[KNOWN] = np.zeros_like(weights[KNOWN])
    probe[KNOWN][:2] = 1  # two rows that say the same of every image: each has half of the probability
    for index in chain.units:
        probe |= {tensor.name: np.zeros(tensor.shape, np.float32) for tensor in readout_parameters(network, index)}

    def visit(index: int, outputs: Arrays) -> None:
        weight, bias = (outputs[tensor.gradient] for tensor in readout_parameters(network, index))
        found[index] = weight[0] / bias[0]

    x = class_input(network, weights, to_unit_interval(examples.pixels))
    chain.run({"input": x}, probe, visit, {"labels": np.zeros(len(x), np.int64)})
    return found
