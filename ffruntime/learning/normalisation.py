"""Normalisation statistics anew, from images without labels: what a changed world looks like to the units.

The mean and the variance of what a unit receives, channel by channel, are of the training images. Where images
arrive changed, those of the images that arrive bring the units' inputs back to where training had them (adaptive
batch normalisation: Li et al. 2016).
"""

from __future__ import annotations

import numpy as np

from ..backend import in_chunks
from ..core.architecture import EPS_BATCH, Network, class_goodness, unit_name
from ..core.data import to_unit_interval
from ..core.errors import UsageError
from ..core.layers import unit_tensors
from ..core.learning import PORTION
from ..embedding import class_input
from ..model import Model
from ..session import ALL_LABELS

LEAST_DEVIATION = 1e-3  # of a channel, of what it was: one that is the same everywhere is not blown up


def normalised_units(network: Network) -> dict[int, tuple[str, str]]:
    """Of class goodness, the units that normalise by batch statistics, by their indices: the names of mean and
    variance."""
    if not class_goodness(network):
        return {}
    found = {}
    for index in range(len(network.units)):
        names = {tensor.role: tensor.name for tensor in unit_tensors(network, index)}
        if "mean" in names:
            found[index] = names["mean"], names["variance"]
    return found


def require_normalised(model: Model) -> None:
    """Raises `UsageError` where a network has no normalisation statistics that images could give anew."""
    if not normalised_units(model.manifest.network):
        raise UsageError(
            f"{model.path}: cannot be renormalised: it needs units that normalise by batch statistics, and no "
            "label in the input"
        )


def renormalised(model: Model, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Normalisation statistics as images uint8 (N, C, H, W) have them, by their tensors' names: the mean and the
    variance of every channel that a unit normalises by batch statistics, unit after unit. Nothing where none does.

    An input is known as it is normalised now, y = (x − m) / √(v + ε), and so is x. `PORTION` images at a time are
    in memory, so each unit is run once for every normalised one above it.
    """
    network = model.manifest.network
    weights, names = {**model.bundle.weights(), **model.weights.tensors}, normalised_units(network)
    moments: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # of y, by unit: mean and deviation

    def arriving(part: np.ndarray, index: int) -> np.ndarray:
        """What a unit receives, normalised as it is now; the units below are normalised anew."""
        y = class_input(network, weights, to_unit_interval(part))
        for below in range(index):
            if below in moments:
                mean, deviation = (values.reshape(1, -1, *[1] * (y.ndim - 2)) for values in moments[below])
                y = (y - mean) / deviation
            graph = in_chunks(model.graph(unit_name(below)), model.session.batch, ALL_LABELS)
            y = graph({"input": y.astype(np.float32)})["output"]
        return y

    found: dict[str, np.ndarray] = {}
    for index, (name_of_mean, name_of_variance) in names.items():
        count, sums, squares = 0, np.zeros(()), np.zeros(())
        for start in range(0, len(pixels), PORTION):
            y = arriving(pixels[start : start + PORTION], index).astype(np.float64)
            axes = (0, *range(2, y.ndim))
            count += y.size // y.shape[1]
            sums, squares = sums + y.sum(axes), squares + np.square(y).sum(axes)
        mean = np.asarray(sums / count)
        deviation = np.maximum(np.sqrt(np.maximum(squares / count - mean**2, 0)), LEAST_DEVIATION)
        moments[index] = mean, deviation
        before, scale = weights[name_of_mean], np.sqrt(weights[name_of_variance] + EPS_BATCH)
        found[name_of_mean] = (before + scale * mean).astype(np.float32)
        found[name_of_variance] = np.square(scale * deviation).astype(np.float32)
    return found
