"""What class statistics tell of images, by the features of a pass, beside what the network says itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from .core.bundle import Bundle
from .core.closed_form import Solved, solve, tell
from .core.errors import BundleError
from .core.gaussians import combined
from .core.layers import feature_tensors
from .core.manifest import ClassStatistics
from .core.state import Weights
from .core.statistics import with_classes
from .later import ahead

MODE: Literal["goodness"] = "goodness"  # in which class statistics have a part


def hold(bundle: Bundle, weights: Weights) -> bool:
    """Whether class statistics answer where these weights are in place of a bundle's own: it has some, and the
    units are those whose features they are made of; or the weights bring those of their own units."""
    if not bundle.manifest.counted:
        return False
    learned = weights.tensors
    if weights.alone or not learned:
        return True
    held = [name for name in feature_tensors(bundle.manifest.network) if name in learned]
    own = bundle.weights() if held else {}
    return all(np.array_equal(learned[name], own[name]) for name in held)


def gaussians(bundle: Bundle, how: ClassStatistics, weights: Weights) -> Solved:
    """Classes, by the bundle's statistics and those of a device, or by the latter alone. Raises `BundleError` where
    no examples can have them."""
    nothing = how.none(0)
    device = with_classes(weights.statistics or nothing, len(weights.classes))
    training = nothing if weights.alone else bundle.statistics()
    try:
        return solve(training, device, how.shrinkage)
    except np.linalg.LinAlgError as error:
        raise BundleError(f"{bundle.path}: no examples have its class statistics, or those of its state") from error


def examples(path: Path, outputs: Mapping[str, np.ndarray], how: ClassStatistics) -> np.ndarray:
    """The examples, int8 (N, d), that the images of a pass are. Raises `BundleError` where it has no features."""
    if "features" not in outputs:
        raise BundleError(f"{path}: goodness.onnx puts out no features; export it again")
    return how.project(outputs["features"])


def answered(
    path: Path, outputs: Mapping[str, np.ndarray], rows: np.ndarray, classes: Solved, how: ClassStatistics
) -> dict[str, np.ndarray]:
    """From the goodness of the classes `rows`, of a pass: `scores` of all (N, C), `distances` to the nearest one
    (N,), of Mahalanobis, the answers' `margins` (N,) by statistics, and the `examples` (N, d) that they are of."""
    x = examples(path, outputs, how)
    told = tell(classes, x)
    together = combined(outputs["total"], rows, told.scores, how.weights[MODE], how.together)
    margins = ahead(told.scores, together.argmax(1))
    return {"scores": together, "distances": told.distances, "margins": margins, "examples": x}
