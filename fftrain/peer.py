"""Peer normalisation: no neuron of a unit stays far busier than the others, or silent for good.

Hinton's remedy for both (section 2), as his published code has it: from each positive image, the pre-activation of
neuron j is pulled by weight · (m̄ − mⱼ), where m is the running mean of the activations on positive data and m̄ its
mean over the unit's neurons. The pull reaches silent neurons, too, which a gradient through the ReLU would not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ffruntime.core.architecture import Network, unit_name, unit_shapes

from .distributed import average
from .operations import Tensors
from .recipe import Peer


def peer_means(peer: Peer, network: Network, device: torch.device) -> Tensors:
    """The running means before the first step, by unit; without peer normalisation there are none."""
    if not peer.weight:
        return {}
    shapes = enumerate(unit_shapes(network))
    trained = {unit_name(i): shape for i, (_, shape) in shapes if network.units[i].trained}
    return {name: torch.zeros(shape, device=device) for name, shape in trained.items()}


def peer_term(peer: Peer, running: Tensor, positive: Tensor) -> Tensor:
    """The term of the loss whose gradient is that pull: pre-activations of the positive copies (B, …) -> ().

    `running` is updated in place first.
    """
    now = positive.detach().relu().float().mean(0)
    average([now])
    running.lerp_(now, 1 - peer.decay)
    excess = (running - running.mean()).to(positive.dtype)
    return peer.weight * (positive.mean(0) * excess).sum()
