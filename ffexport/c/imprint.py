"""Where the row of a class that a chip never saw begins: between the features of its first image and the average
of the other classes' (imprinting: Qi et al. 2018), as `ffruntime/learning/rows.py` begins it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from msgspec import Struct

from ffruntime.core.architecture import Network, cell_edges, readout_cells
from ffruntime.core.data import Examples
from ffruntime.core.layers import KNOWN, readout_layer

from .forward import EPS_DIVISIVE, forward_unit, standardised
from .sweeps import sweeps

MOST = 20  # images of a class that its mean features are of


class Beginning(Struct, frozen=True):
    """Of one unit's readout."""

    average: np.ndarray  # float32 (F,): of the features, over classes
    high: float  # goodness of a known class's row at its own mean features, on average
    low: float  # and at the average of the other classes'


def beginnings(network: Network, weights: Mapping[str, np.ndarray], images: Examples) -> dict[int, Beginning]:
    """By the index of each unit with a readout, from images of the classes that have rows; nothing where these are
    fewer than two."""
    known = np.flatnonzero(weights[KNOWN] > 0)
    labels = [int(label) for label in known if (images.labels == label).any()]
    if len(labels) < 2:
        return {}
    chosen = np.concatenate([np.flatnonzero(images.labels == label)[:MOST] for label in labels])
    images, found = images.take(chosen), dict[int, Beginning]()
    for index, z in features(network, weights, images.pixels).items():
        layer = readout_layer(network, index)
        assert layer
        means = np.stack([z[images.labels == label].mean(0) for label in labels])  # (K, F)
        others = (means.sum(0) - means) / (len(means) - 1)
        rows, bias = weights[f"{layer.name}.weight"][labels], weights[f"{layer.name}.bias"][labels]
        high, low = (float(np.mean((rows * at).sum(1) + bias)) for at in (means, others))
        found[index] = Beginning(means.mean(0).astype(np.float32), high, low)
    return found


def features(network: Network, weights: Mapping[str, np.ndarray], pixels: np.ndarray) -> dict[int, np.ndarray]:
    """The normalised features (N, F) of images uint8 (N, C, H, W), by the index of each unit with a readout."""
    found = dict[int, np.ndarray]()
    x = standardised(network, pixels)
    for index, unit in enumerate(network.units):
        x = forward_unit(network, weights, index, x)
        if unit.readout:
            cells = (*readout_cells(unit.readout, sweeps(network, index)[-1].after), 1, 1)[1:3]
            averages = _averaged(x, cells).reshape(len(x), -1)
            found[index] = averages / np.sqrt(np.square(averages).mean(1, keepdims=True) + EPS_DIVISIVE)
    return found


def _averaged(x: np.ndarray, cells: tuple[int, ...]) -> np.ndarray:
    """Averages over cells: (N, H, W, C) -> (N, C, rows, columns)."""
    down, across = (cell_edges(side, count) for side, count in zip(x.shape[1:3], cells, strict=True))
    rows = [
        [x[:, top:bottom, left:right].mean((1, 2)) for left, right in pairwise(across)]
        for top, bottom in pairwise(down)
    ]
    return np.array(rows).transpose(2, 3, 0, 1)
