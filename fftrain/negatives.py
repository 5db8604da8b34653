"""Negative data: which wrong labels an image is shown with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ffruntime.core.architecture import Network, scored_units, sign

from . import network as net
from .operations import Tensors
from .recipe import Negatives


def plausibility(
    negatives: Negatives, network: Network, tensors: Tensors, images: Tensor, logits: Tensor | None
) -> Tensor | None:
    """Score of every label for every image, (B, P), in which hard negatives stand out; None: there are none.

    Either the classifier's logits, or the sharpened log-goodness of every label, which costs a pass for each.
    """
    if not negatives.hard or negatives.source == "classifier":
        return logits if negatives.hard else None
    labels = torch.arange(network.label.patterns, device=images.device)
    goodness = net.label_goodness(network, tensors, images, labels)[..., scored_units(network)]  # (B, P, S)
    return sign(network) * negatives.sharpness * goodness.clamp_min(1e-30).log().sum(-1)


def choose_negatives(labels: Tensor, patterns: int, scores: Tensor | None, hard: Tensor, noise: Tensor) -> Tensor:
    """Wrong labels for every image: (M, B).

    A share `hard` (a scalar tensor) is drawn from the softmax of `scores` (B, P) over the wrong labels, the others
    uniformly. Of `noise` (B, M, 2) the first number decides between the two, the second which label it is.
    """
    right = F.one_hot(labels, patterns).bool()  # (B, P)
    chances = ((~right).float() / (patterns - 1))[:, None]  # (B, 1, P)
    if scores is not None:
        plausible = scores.float().masked_fill(right, -torch.inf).softmax(1)[:, None]
        chances = torch.where(noise[..., :1] < hard, plausible, chances)  # (B, M, P)
    cumulative = chances.cumsum(-1).expand(-1, noise.shape[1], -1).contiguous()
    drawn = torch.searchsorted(cumulative, noise[..., 1:] * cumulative[..., -1:], right=True)[..., 0]
    return drawn.clamp_max(patterns - 1).T
