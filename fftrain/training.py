"""A network in training, and one update of it by one loss for several units."""

from __future__ import annotations

import torch
from msgspec import Struct
from torch import Tensor

from ffruntime.core.architecture import Network

from . import network as net
from .functional import Tensors
from .hardware import average
from .optimizers import Optimizers, apply_gradients
from .recipe import Peer, Recipe


class TrainingState(Struct):
    """A network in training. `tensors` are changed in place; `dtype` is what activations are computed in.

    `peers` are the running means of peer normalisation, by unit, changed likewise: state of the training alone.
    """

    recipe: Recipe
    network: Network
    tensors: Tensors
    optimizers: Optimizers
    peers: Tensors
    learning: frozenset[str]  # the parts that are updated now: units by name, and `head`
    device: torch.device
    dtype: torch.dtype

    def peer(self, unit: str) -> tuple[Peer, Tensor] | None:
        """Peer normalisation of a unit, with its running mean; None where there is none."""
        return (self.recipe.peer, self.peers[unit]) if unit in self.peers else None


def nothing(like: Tensor) -> Tensor:
    """The report (2,) of a part that has no loss of its own: NaN."""
    return torch.full((2,), torch.nan, device=like.device)


def with_gradients(state: TrainingState, names: list[str]) -> Tensors:
    """All tensors; those named are leaves of the graph to come."""
    return {**state.tensors, **{n: state.tensors[n].detach().requires_grad_() for n in names}}


def descend(state: TrainingState, own: Tensors, value: Tensor) -> None:
    """One update of every part whose parameters in `own` are leaves."""
    leaves = {name: tensor for name, tensor in own.items() if tensor.requires_grad}
    gradients = dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True))
    average(gradients.values())
    for part, optimizer in state.optimizers.items():
        if mine := net.parameters(state.network, part, gradients):
            apply_gradients(optimizer, state.tensors, mine)
