"""Losses on the goodness of an image with its right label, and with wrong ones."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from .recipe import PairLoss, Ratio, Symmetric, Threshold


def pair_loss(loss: PairLoss, positive: Tensor, negative: Tensor, neurons: int, sign: int = 1) -> Tensor:
    """Loss of each image (N,) from the mean squares g⁺ (N,) and g⁻ (M, N) of a unit with so many neurons.

    `sign` −1 is for goodness that is to be low for right labels: differences change their sign.

    The formulas for one negative and their sources stand with the recipe's loss kinds (`fftrain/recipe.py`). With
    M of them, the losses on a difference become log(1 + Σₘ e^(−α·(g⁺ − g⁻ₘ))), the cross-entropy of a softmax over
    the copies; that on a threshold takes the mean over the negatives.
    """
    if isinstance(loss, Symmetric):
        return softplus((-sign * loss.alpha * (positive - negative)).logsumexp(0))
    if isinstance(loss, Ratio):
        gap = positive.clamp_min(1e-12).log() - negative.clamp_min(1e-12).log()
        return softplus((-sign * loss.alpha * gap).logsumexp(0))
    scale = sign * (neurons if loss.reduce == "sum" else 1)
    return softplus(-scale * (positive - loss.theta)) + softplus(scale * (negative - loss.theta)).mean(0)


def discriminated(loss: PairLoss, positive: Tensor, negative: Tensor, sign: int = 1) -> Tensor:
    """Share of right decisions for each image, in [0, 1]: the discrimination accuracy of Scodellaro et al.

    With a threshold all copies are judged against it, without one the pairs by their order. Shapes as above.
    """
    if not isinstance(loss, Threshold):
        return (sign * positive > sign * negative).float().mean(0)
    bar = sign * loss.theta
    right = (sign * positive > bar).float() + (sign * negative <= bar).float().mean(0)
    return right / 2
