"""A network in training: the parts that learn, their optimizers and learning rates, and one update by one loss.

Every unit has an optimizer of its own: it is updated, and its gradient freed, before the next unit's turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from msgspec import Struct
from torch import Tensor

from ffruntime.core.architecture import Network, class_goodness, scored_units, unit_name
from ffruntime.core.layers import HEAD
from ffruntime.core.learning import CrossEntropy

from . import network as net
from .functional import Tensors
from .hardware import average
from .recipe import Adam, Peer, Recipe
from .ways import Way

Optimizers: TypeAlias = dict[str, torch.optim.Optimizer]  # by unit name, and `HEAD`


def trained_units(recipe: Recipe, network: Network) -> list[str]:
    """Units that the recipe changes. Where gradients cross units, those below a trained one, too."""
    trained = [index for index, unit in enumerate(network.units) if unit.trained]
    if isinstance(recipe.loss, CrossEntropy):
        trained = list(range(scored_units(network)[-1] + 1 if class_goodness(network) else len(network.units)))
    elif recipe.gradient == "crossing":
        trained = list(range(max(trained) + 1))
    return [*map(unit_name, trained)]


def trained_parts(recipe: Recipe, network: Network) -> list[str]:
    """Units that the recipe changes, and `HEAD`."""
    head = recipe.schedule.head_lr and not class_goodness(network)
    return [*trained_units(recipe, network), *([HEAD] if head else [])]


def make_optimizers(recipe: Recipe, network: Network, tensors: Tensors) -> Optimizers:
    """An optimizer for each part of the network that the recipe trains; fp32 master weights, fused kernels."""
    on_cuda = next(iter(tensors.values())).is_cuda
    optimizers: Optimizers = {}
    for part in trained_parts(recipe, network):
        own = list(net.parameters(network, part, tensors).values())
        base = recipe.schedule.head_lr if part == HEAD else recipe.schedule.lr
        rate = torch.tensor(base, device=own[0].device) if on_cuda else base  # a CUDA graph reads it anew
        kind = recipe.optimizer
        if isinstance(kind, Adam):
            made: torch.optim.Optimizer = torch.optim.AdamW(
                own, lr=rate, weight_decay=kind.weight_decay, fused=True, capturable=on_cuda
            )
        else:
            made = torch.optim.SGD(own, lr=rate, momentum=kind.momentum, weight_decay=kind.weight_decay, fused=True)
        made.param_groups[0]["base_lr"] = base
        optimizers[part] = made
    return optimizers


def learning_rate(progress: float, constant: float) -> float:
    """Factor of the learning rate: 1 for the share `constant` of the training, then linearly to 0."""
    return min(1.0, (1 - progress) / (1 - constant))


def learning_rates(recipe: Recipe, network: Network, begun: float, passed: float) -> dict[str, float]:
    """Factor of the learning rate of every part that learns now, when the share `passed` of the training has, and
    the share `begun` had when the epoch began."""
    schedule, parts = recipe.schedule, trained_parts(recipe, network)
    at = begun if schedule.falls == "epoch" else passed
    rates = dict.fromkeys(parts, learning_rate(at, schedule.constant))
    if schedule.order == "together":
        return rates
    units = trained_units(recipe, network)
    turn = min(int(passed * len(units)), len(units) - 1)
    own = learning_rate(max(0.0, at * len(units) - turn), schedule.constant)
    return {part: own if part in units else rate for part, rate in rates.items() if part in (units[turn], HEAD)}


def set_learning_rates(optimizers: Optimizers, factors: Mapping[str, float]) -> None:
    """The learning rate of each part named: its own, times the factor."""
    for part, factor in factors.items():
        group = optimizers[part].param_groups[0]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(group["base_lr"] * factor)
        else:
            group["lr"] = group["base_lr"] * factor


def apply_gradients(optimizer: torch.optim.Optimizer, tensors: Tensors, gradients: Tensors) -> None:
    """One update of `tensors`, in place, by gradients of the same names; nothing of them is kept."""
    for name, gradient in gradients.items():
        tensors[name].grad = gradient.to(tensors[name].dtype).contiguous()  # fused kernels ignore strides
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


# --- one update by one loss, of all units that it is for


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
    way: Way

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
