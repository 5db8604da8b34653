"""Which bundles the scenes take."""

from __future__ import annotations

from ..core.errors import BundleError
from ..model import Model
from .mnist_files import SHAPE

DIGITS = tuple("0123456789")


def require_digits(model: Model, remedy: str) -> None:
    """Raises `BundleError`, with the command that helps, for a network of other images or of other things."""
    network, classes = model.manifest.network, model.manifest.classes
    if network.image.shape != SHAPE:
        shape = "×".join(map(str, network.image.shape))
        raise BundleError(f"{model.path}: takes images of {shape}, MNIST's are 1×28×28; make one: {remedy}")
    if others := set(classes) - set(DIGITS):
        raise BundleError(f"{model.path}: knows {', '.join(sorted(others))}, not only digits; make one: {remedy}")
