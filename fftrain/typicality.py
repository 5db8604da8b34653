"""How typical an image is to each scored unit alone, gathered when training ends, for answers of mode `exit`.

Of every scored unit the features that its readout reads, projected to few numbers, as Gaussians with one
covariance; distances of the validation images to the nearest class (Lee, Lee, Lee, Shin 2018).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor

from ffruntime.core.architecture import Network, readout_cells, scored_units, unit_shapes
from ffruntime.core.calibration import OfUnit, nearest
from ffruntime.core.data import Examples
from ffruntime.core.manifest import EXIT, lone_units
from ffruntime.core.projection import project
from ffruntime.core.statistics import means, of, scatter

from . import network as net
from .calibration import distances_of
from .evaluation import IMAGES
from .functional import Tensors

SEED = 0  # of every projection
DIMENSION = 64  # at most; 32 tells nearly as much, 128 no more (benchmarks/README.md)
ISOTROPIC = 0.05  # share of the covariance
TRAINING = 5_000  # images that classes are gathered of, spread evenly


class Typical(NamedTuple):
    """Of each scored unit, by the names that mode `exit` answers by."""

    known: dict[str, OfUnit]  # of the validation images
    distances: dict[str, np.ndarray]  # of these, (N,)
    tensors: dict[str, np.ndarray]  # of `typicality.safetensors`

    @property
    def encoded(self) -> bytes:
        return save(self.tensors)


@torch.no_grad()
def gather_units(
    network: Network, tensors: Tensors, train: Examples, validation: Examples, classes: int, most: int
) -> Typical:
    """For a network with class goodness: of some training images, and thresholds of all validation images; `most`
    numbers to an image at most, as class statistics have."""
    names, sizes = (*lone_units(network), EXIT), _sizes(network)
    count = len(train.labels)
    some = torch.linspace(0, count - 1, min(count, TRAINING), device=train.labels.device).round().long()
    labels = train.labels[some].cpu().numpy()
    known, held_back = (
        _examples(network, tensors, pixels, sizes, min(most, DIMENSION))
        for pixels in (train.pixels[some], validation.pixels)
    )
    typical = Typical({}, {}, {})
    for name, x, shown in zip(names, known, held_back, strict=True):
        found, d = of(x, labels, classes), x.shape[1]
        covariance = scatter(found) / max(len(x), 1)
        isotropic = ISOTROPIC * (np.trace(covariance) / d or 1.0) * np.eye(d)
        factor = np.linalg.inv(np.linalg.cholesky((1 - ISOTROPIC) * covariance + isotropic)).astype(np.float32)
        centres = (means(found)[found.counts > 0] @ factor.T).astype(np.float32)
        typical.tensors.update({f"{name}.factor": factor, f"{name}.centres": centres})
        typical.distances[name] = far = nearest(shown, factor, centres)
        farthest, beyond = distances_of(far)
        typical.known[name] = OfUnit(farthest, beyond, dimension=d, seed=SEED)
    return typical


def _sizes(network: Network) -> list[int]:
    """How many features the readout of each scored unit reads."""
    found = []
    for index in scored_units(network):
        readout = network.units[index].readout
        assert readout
        found.append(math.prod(readout_cells(readout, unit_shapes(network)[index][1])))
    return found


def _examples(
    network: Network, tensors: Tensors, pixels: Tensor, sizes: list[int], dimension: int
) -> list[np.ndarray]:
    """What images are to each scored unit, int8 (N, d) each."""
    rows: list[list[np.ndarray]] = [[np.empty((0, min(dimension, size)), np.int8)] for size in sizes]
    for part in pixels.split(IMAGES):
        features = net.class_features(network, tensors, net.to_images(part, network, torch.float32)).cpu().numpy()
        for own, values in zip(rows, np.split(features, np.cumsum(sizes)[:-1], axis=1), strict=True):
            own.append(project(values, min(dimension, values.shape[1]), SEED))
    return [np.concatenate(own) for own in rows]
