"""The losses that units and classifiers are trained by, as a recipe and a bundle's manifest name them.

Their formulas are computed in torch (`fftrain/loss.py`) and as graphs (`ffexport/gradients.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from .architecture import Network, Positive
from .errors import BundleError

PositiveFloat: TypeAlias = Annotated[float, Meta(gt=0)]

LOWEST_GOODNESS = 1e-12  # below it, the ratio loss no longer asks how low


class Threshold(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="threshold"):
    """Logistic loss on ±(goodness − θ) (Hinton; Scodellaro et al.).

    `theta` is θ per neuron. With `reduce = "sum"` goodness is the sum of squares over the unit's N
    neurons and θ is N · theta; with `"mean"` it is their mean.
    """

    theta: PositiveFloat = 1.0
    reduce: Literal["sum", "mean"] = "sum"


class Symmetric(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="symmetric"):
    """softplus(−α · (g⁺ − g⁻)), goodness as the mean of squares (Trifecta's SymBa loss)."""

    alpha: PositiveFloat = 4.0


class Ratio(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="ratio"):
    """softplus(−α · (log g⁺ − log g⁻)): symmetric on the ratio, blind to the scale of activities. Ours."""

    alpha: PositiveFloat = 20.0


class CrossEntropy(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="cross_entropy"):
    """The BP baseline: cross-entropy of the linear classifier, backpropagated through the whole network."""


PairLoss: TypeAlias = Threshold | Symmetric | Ratio  # of a positive and its negatives, unit by unit
Loss: TypeAlias = PairLoss | CrossEntropy


class _Negatives(Struct, frozen=True):
    source: str = ""


class _Hybrid(Struct, frozen=True):
    blur: Positive = 10


class _Recipe(Struct, frozen=True):
    """As much of a recipe as says what its gradients are."""

    loss: PairLoss
    negatives: _Negatives = _Negatives()


def pair_loss_of(recipe: Mapping[str, Any], network: Network) -> PairLoss | None:
    """The loss of each unit of `network` that its manifest's `training.recipe` names.

    None where units have none of their own (backpropagation), where it is not one of a single pass (recurrent
    networks), or where that free object names none known here.
    """
    if network.steps:
        return None
    try:
        return msgspec.convert(recipe, _Recipe).loss
    except msgspec.ValidationError:
        return None


def hybrid_blur(recipe: Mapping[str, Any]) -> int | None:
    """How often the masks of the recipe's hybrid images are blurred; None where negatives are no such images.

    Raises `BundleError` where the recipe says it in a way that cannot be followed.
    """
    negatives = recipe.get("negatives")
    if not isinstance(negatives, Mapping) or negatives.get("source") != "hybrid":
        return None
    try:
        return msgspec.convert(negatives, _Hybrid).blur
    except msgspec.ValidationError as error:
        raise BundleError(f"training.recipe.negatives: {error}") from error


def sharpness(loss: PairLoss, neurons: int, goodness: float) -> float:
    """How many times a relative error of goodness, near `goodness`, can come back in the loss's slope, at most.

    The slope is a logistic function: of s · (g − θ), of α · (g⁺ − g⁻) or of α · (ln g⁺ − ln g⁻).
    """
    if isinstance(loss, Ratio):
        return loss.alpha
    if isinstance(loss, Symmetric):
        return loss.alpha * goodness
    return goodness * (neurons if loss.reduce == "sum" else 1)
