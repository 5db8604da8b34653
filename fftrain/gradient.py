"""The gradient of one unit's own loss: nothing flows in from the unit above or out to the one below."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ffruntime.core.architecture import Network, Source, sign, unit_name

from . import network as net
from .loss import discriminated, pair_loss
from .network import NOTHING
from .operations import Tensors
from .peer import peer_term
from .recipe import PairLoss, Peer


def local_gradient(
    network: Network,
    index: int,
    tensors: Tensors,
    received: Mapping[Source, Tensor],
    loss: PairLoss,
    copies: int = 2,
    peer: tuple[Peer, Tensor] | None = None,
    known: Mapping[str, Tensor] = NOTHING,
    old: Tensor | None = None,
) -> tuple[Tensors, Tensor, Tensor]:
    """The gradient of the unit at `index`, and what it makes of its inputs.

    `received`: the unit's normalised inputs (copies · B, …) by source, the positive copies first; `peer`: peer
    normalisation, with the unit's running mean, which is updated. In a recurrent network, `known` is what some
    inputs add (`network.constants`), and `old` the unit's activity of a step ago. Returns (gradient by name, of
    the unit's parameters in `tensors` and of what is `known` by way of weights; activation; [loss, discrimination
    accuracy] of the batch, without the peer term).
    """
    name = unit_name(index)
    added = {n: t for n, t in known.items() if n.startswith(f"{name}.")}
    learned = {n: t for n, t in added.items() if t.requires_grad}  # of inputs that have weights
    leaves = {n: t.detach().requires_grad_() for n, t in (net.parameters(name, tensors) | learned).items()}
    given = {source: x.detach() for source, x in received.items()}
    with torch.enable_grad():
        y = net.preactivation(network, index, leaves, given, {n: leaves.get(n, t) for n, t in added.items()})
        pull = peer_term(*peer, y[: len(y) // copies]) if peer else 0.0  # before the ReLU, which is in place
        if old is None:
            goodness = net.relu_goodness(y)
        else:
            y = net.damped(network, old, F.relu(y))
            goodness = net.mean_square(y)
        value, report = unit_loss(network, loss, goodness, y[0].numel(), copies)
        gradients = torch.autograd.grad(value + pull, list(leaves.values()))
    return dict(zip(leaves, gradients, strict=True)), y.detach(), report


def unit_loss(
    network: Network, loss: PairLoss, goodness: Tensor, neurons: int, copies: int
) -> tuple[Tensor, Tensor]:
    """Goodness (copies · B,), positives first -> (the batch's loss, [loss, discrimination accuracy] detached)."""
    copy, way = goodness.view(copies, -1), sign(network)
    value = pair_loss(loss, copy[0], copy[1:], neurons, way).mean()
    right = discriminated(loss, copy[0].detach(), copy[1:].detach(), way).mean()
    return value, torch.stack([value.detach(), right])
