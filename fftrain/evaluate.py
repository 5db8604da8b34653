"""Accuracy of a network on a split, in every inference mode."""

from __future__ import annotations

import torch
from torch import Tensor

from ffruntime.architecture import Network

from . import network as net
from .data import Split
from .network import Tensors

BATCH = 200  # images; goodness asks for every label, so the networks sees this times the classes


@torch.no_grad()
def goodness_scores(
    network: Network, tensors: Tensors, pixels: Tensor, classes: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Total goodness of every class: pixels uint8 (N, C, H, W) -> (N, classes)."""
    labels = torch.arange(classes, device=pixels.device)
    rows = []
    for part in pixels.split(BATCH):
        goodness = net.label_goodness(network, tensors, net.to_images(part, network, dtype), labels)
        rows.append(net.total_goodness(network, goodness))
    return torch.cat(rows)


@torch.no_grad()
def classifier_scores(
    network: Network, tensors: Tensors, pixels: Tensor, classes: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Logit of every class, with the neutral label: pixels uint8 (N, C, H, W) -> (N, classes)."""
    rows = [
        net.classify_linear(network, tensors, net.to_images(part, network, dtype))[1][:, :classes]
        for part in pixels.split(BATCH)
    ]
    return torch.cat(rows)


def accuracy(
    network: Network, tensors: Tensors, split: Split, classes: int, dtype: torch.dtype
) -> dict[str, float]:
    """Share of right answers by inference mode."""
    modes = {"goodness": goodness_scores, "classifier": classifier_scores}
    return {
        mode: (score(network, tensors, split.pixels, classes, dtype).argmax(1) == split.labels)
        .double()
        .mean()
        .item()
        for mode, score in modes.items()
    }
