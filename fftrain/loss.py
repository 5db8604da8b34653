"""Losses on a pair of goodnesses: that of an image with its right label, and with a wrong one."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from .recipe import PairLoss, Ratio, Symmetric


def pair_loss(loss: PairLoss, positive: Tensor, negative: Tensor, neurons: int) -> Tensor:
    """Loss of each pair (N,) from the mean squares g⁺ and g⁻ (N,) of a unit with so many neurons.

    The formulas and their sources stand with the recipe's loss kinds (`fftrain/recipe.py`).
    """
    if isinstance(loss, Symmetric):
        return softplus(-loss.alpha * (positive - negative))
    if isinstance(loss, Ratio):
        return softplus(-loss.alpha * (positive.clamp_min(1e-12).log() - negative.clamp_min(1e-12).log()))
    scale = neurons if loss.reduce == "sum" else 1
    return softplus(-scale * (positive - loss.theta)) + softplus(scale * (negative - loss.theta))


def discriminated(loss: PairLoss, positive: Tensor, negative: Tensor) -> Tensor:
    """Share of right decisions in each pair, in [0, 1]: the discrimination accuracy of Scodellaro et al.

    With a threshold both copies are judged against it; without one, whether the pair is in order.
    """
    if isinstance(loss, Symmetric | Ratio):
        return (positive > negative).float()
    return ((positive > loss.theta).float() + (negative <= loss.theta).float()) / 2
