"""One step of training: every unit updated by its own loss, from its own input, before the next one's turn.

The other readings of a step are here, too: gradients that cross units (a reading of Scodellaro et al.), and plain
backpropagation (their baseline).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ffruntime.core.architecture import unit_name

from . import network as net
from .distributed import average
from .gradient import local_gradient, unit_loss
from .negatives import choose_negatives, plausibility
from .operations import Tensors
from .optimizer import apply_gradients
from .recipe import CrossEntropy
from .recurrent import recurrent_units
from .state import Batch, State


@torch.no_grad()
def training_step(state: State, batch: Batch, hard: Tensor) -> Tensor:
    """Update everything that the recipe trains, in place. `hard` (scalar): the share of hard negatives.

    Returns (U + 1, 2): loss and discrimination accuracy of every unit, also of those that it does not train, NaN
    under backpropagation; in the last row cross-entropy and accuracy of the classifier. No GPU is made to wait.
    """
    recipe, network = state.recipe, state.network
    images = net.to_images(batch.pixels, network, state.dtype)
    if isinstance(recipe.loss, CrossEntropy):
        return backpropagation(state, images, batch.labels)
    learn = crossing_units if recipe.gradient == "crossing" else local_units
    if batch.hybrids is None:
        read = net.neutral_features(network, state.tensors, images) if "head" in state.optimizers else None
        logits, classifier = learn_head(state, read, batch.labels)
        scores = plausibility(recipe.negatives, network, state.tensors, images, logits)
        wrong = choose_negatives(batch.labels, network.label.patterns, scores, hard, batch.noise)
        labels = torch.cat([batch.labels[None], wrong])
        if network.steps:
            return torch.cat([recurrent_units(state, images, labels), classifier[None]])
        x = net.embed_copies(network, state.tensors, images, labels)
        return torch.cat([learn(state, x, len(labels))[0], classifier[None]])
    hybrids = net.to_images(batch.hybrids.transpose(0, 1).flatten(0, 1), network, state.dtype)
    x = net.embed(network, state.tensors, torch.cat([images, hybrids]), state.tensors["labels.neutral"][None])
    # The positive copies' pass is the neutral one; with batch statistics, by those of this batch.
    reports, features = learn(state, x, len(x) // len(images), unlabelled=True)
    _, classifier = learn_head(state, torch.cat(features, dim=1), batch.labels)
    return torch.cat([reports, classifier[None]])


def local_units(state: State, x: Tensor, copies: int, unlabelled: bool = False) -> tuple[Tensor, list[Tensor]]:
    """One pass over the units, each updated on the way, from the first one's input (copies · B, …), the positive
    copies first -> reports (U, 2), and where they are `unlabelled`, what the classifier reads of the positive
    copies, a tensor (B, F) for each scored unit; else nothing is kept."""
    network, loss, reports, features = state.network, state.recipe.loss, [], []
    assert not isinstance(loss, CrossEntropy)
    for index, unit in enumerate(network.units):
        name = unit_name(index)
        own = {n: t.to(state.dtype) for n, t in net.parameters(name, state.tensors).items()}
        x = net.normalise(unit, name, state.tensors, x, training=True)
        if unit.trained and name in state.learning:
            peer = (state.recipe.peer, state.peers[name]) if name in state.peers else None
            gradients, x, report = local_gradient(network, index, own, {"below": x}, loss, copies, peer)
            average(gradients.values())
            apply_gradients(state.optimizers[name], state.tensors, gradients)
        else:
            x = net.activation(network, index, own, {"below": x})
            _, report = unit_loss(network, loss, net.mean_square(x), x[0].numel(), copies)
        reports.append(report)
        features += [net.features([x[: len(x) // copies]])] if unlabelled and unit.scored else []
    return torch.stack(reports), features


def crossing_units(state: State, x: Tensor, copies: int, unlabelled: bool = False) -> tuple[Tensor, list[Tensor]]:
    """The sum of all trained units' losses, its gradient through the whole network: as `local_units`."""
    network, loss = state.network, state.recipe.loss
    assert not isinstance(loss, CrossEntropy)
    own = _with_gradients(state)
    total, reports, features = torch.zeros((), device=x.device), [], []
    with torch.enable_grad():
        for index, unit in enumerate(network.units):
            x = net.normalise(unit, unit_name(index), state.tensors, x, training=True)
            x = net.activation(network, index, own, {"below": x})
            value, report = unit_loss(network, loss, net.mean_square(x), x[0].numel(), copies)
            total = total + value if unit.trained else total
            reports.append(report)
            features += [net.features([x[: len(x) // copies].detach()])] if unlabelled and unit.scored else []
        _descend(state, own, total)
    return torch.stack(reports), features


def backpropagation(state: State, images: Tensor, labels: Tensor) -> Tensor:
    """The baseline: cross-entropy of the linear classifier, with the neutral label, through the whole network."""
    network = state.network
    own = _with_gradients(state)
    with torch.enable_grad():
        x = net.embed(network, own, images, own["labels.neutral"][None])
        scored = []
        for index, unit in enumerate(network.units):
            x = net.normalise(unit, unit_name(index), state.tensors, x, training=True)
            x = net.activation(network, index, own, {"below": x})
            scored += [x] if unit.scored else []
        logits = net.head_logits(own, net.features(scored))
        value = F.cross_entropy(logits, labels)
        _descend(state, own, value)
    report = torch.stack([value.detach(), (logits.argmax(1) == labels).float().mean()])
    return torch.stack([*[_nothing(images)] * len(network.units), report])


def _with_gradients(state: State) -> Tensors:
    """All tensors; those that one loss for the whole network trains are leaves of the graph to come."""
    head = isinstance(state.recipe.loss, CrossEntropy)  # else it has its own loss (`learn_head`)
    parts = [part for part in state.optimizers if part != "head" or head]
    wanted = {n: t for part in parts for n, t in net.parameters(part, state.tensors).items()}
    return {**state.tensors, **{n: t.detach().requires_grad_() for n, t in wanted.items()}}


def _descend(state: State, own: Tensors, value: Tensor) -> None:
    """One update of every part whose parameters in `own` are leaves."""
    leaves = {name: tensor for name, tensor in own.items() if tensor.requires_grad}
    gradients = dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True))
    average(gradients.values())
    for part, optimizer in state.optimizers.items():
        if mine := net.parameters(part, gradients):
            apply_gradients(optimizer, state.tensors, mine)


def learn_head(state: State, x: Tensor | None, labels: Tensor) -> tuple[Tensor | None, Tensor]:
    """Update the linear classifier by its cross-entropy, whose gradient stops at its own inputs x (B, F).

    Returns (logits before the update (B, P), [cross-entropy, accuracy]); (None, NaN) where the recipe has none.
    """
    if x is None:
        return None, _nothing(labels)
    logits = net.head_logits(state.tensors, x)
    error = logits.softmax(1) - F.one_hot(labels, logits.shape[1])
    error /= len(labels)
    gradients = {"head.weight": error.to(x.dtype).T @ x, "head.bias": error.sum(0)}
    average(gradients.values())
    apply_gradients(state.optimizers["head"], state.tensors, gradients)
    report = torch.stack([F.cross_entropy(logits, labels), (logits.argmax(1) == labels).float().mean()])
    return logits, report


def _nothing(like: Tensor) -> Tensor:
    return torch.full((2,), torch.nan, device=like.device)
