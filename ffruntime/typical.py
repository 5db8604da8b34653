"""How typical an image is that mode `exit` answers: by the features of the unit that answers it.

Of every scored unit the bundle holds classes' means and one factor of a covariance of few projected features
(`typicality.safetensors`), so that nothing has to run but what has run. `fftrain/typicality.py` makes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from .core.architecture import EPS_DIVISIVE, Readout, cell_edges, readout_cells, scored_units
from .core.bundle import Bundle
from .core.calibration import OfUnit, nearest
from .core.errors import BundleError
from .core.manifest import EXIT, TYPICALITY, lone_units
from .core.projection import project

Distances: TypeAlias = Callable[[np.ndarray], np.ndarray]  # of activations (N, …) to the nearest class, (N,)


def readout_means(activation: np.ndarray, readout: Readout) -> np.ndarray:
    """An activation (N, …) averaged over its readout's cells, (N, F); a vector stays as it is."""
    shape = activation.shape[1:]
    cells, means = readout_cells(readout, shape), activation
    if cells != shape:
        for axis, (side, count) in enumerate(zip(shape[1:], cells[1:], strict=True), 2):
            edges = cell_edges(side, count)
            means = np.add.reduceat(means, edges[:-1], axis=axis)
            means = means / np.diff(edges).reshape(-1, *[1] * (means.ndim - 1 - axis)).astype(means.dtype)
    return means.reshape(len(activation), -1)


def readout_features(activation: np.ndarray, readout: Readout) -> np.ndarray:
    """What a readout reads of an activation (N, …): its means over cells, of mean square 1, (N, F)."""
    means = readout_means(activation, readout)
    found: np.ndarray = means / np.sqrt(np.square(means).mean(1, keepdims=True) + np.float32(EPS_DIVISIVE))
    return found


def of_units(bundle: Bundle) -> list[Distances] | None:
    """For every scored unit the distances of its activations; None where the bundle has none. Raises `BundleError`
    where they are damaged."""
    manifest = bundle.manifest
    known = manifest.calibration.units if manifest.calibration else {}
    if not known:
        return None
    tensors, found = bundle.tensors(TYPICALITY), []
    for index, name in zip(scored_units(manifest.network), (*lone_units(manifest.network), EXIT), strict=True):
        how, readout = known[name], manifest.network.units[index].readout
        factor, centres = (tensors.get(f"{name}.{which}", np.empty(0)) for which in ("factor", "centres"))
        d = how.dimension
        if factor.shape != (d, d) or centres.ndim != 2 or not len(centres) or centres.shape[1] != d or not readout:
            raise BundleError(
                f"{bundle.path / TYPICALITY}: factor or centres of {name} are missing, or of another size"
            )
        found.append(_distances(how, readout, factor, centres))
    return found


def _distances(how: OfUnit, readout: Readout, factor: np.ndarray, centres: np.ndarray) -> Distances:
    def distances(activation: np.ndarray) -> np.ndarray:
        return nearest(project(readout_features(activation, readout), how.dimension, how.seed), factor, centres)

    return distances
