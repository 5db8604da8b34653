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

    A row is the class's mean feature minus the mean over all `classes`, as long as known rows are on average, and
    its bias is theirs. `model` lends its gradient graphs.
    """
    network, known = model.manifest.network, weights[KNOWN] > 0
    new = [int(some.labels[0]) for some in classes if not known[some.labels[0]]]
    if not new:
        return
    means = {int(some.labels[0]): mean_features(model, weights, some, micro_batch) for some in classes}
    for index in next(iter(means.values())):
        weight, bias = (weights[tensor.name] for tensor in readout_parameters(network, index))
        centre = np.mean([features[index] for features in means.values()], axis=0)
        length = np.linalg.norm(weight[known], axis=1).mean() if known.any() else 0.0
        for label in new:
            row = means[label][index] - centre
            weight[label] = row * (length / max(float(np.linalg.norm(row)), 1e-12))
            bias[label] = bias[known].mean() if known.any() else 0.0
    weights[KNOWN][new] = 1


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
        weight, bias = (outputs[f"gradient.{tensor.name}"] for tensor in readout_parameters(network, index))
        found[index] = weight[0] / bias[0]

    x = class_input(network, weights, to_unit_interval(examples.pixels))
    chain.run({"input": x}, probe, visit, {"labels": np.zeros(len(x), np.int64)})
    return found
