"""One step of training: every unit updated by its own loss, from its own input, before the next one's turn.

In the order of reading: the step and its four ways through the units; the gradient of one unit's loss; the losses;
peer normalisation. `epoch.py` says what batches and negatives are, `class_step.py` how class goodness is learned.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.functional import softplus

from ffruntime.core.architecture import (
    Network,
    Source,
    class_goodness,
    constant_inputs,
    sign,
    unit_name,
    unit_shapes,
)
from ffruntime.core.layers import HEAD
from ffruntime.core.learning import LOWEST_GOODNESS, ClassLoss, CrossEntropy, PairLoss, Ratio, Symmetric, Threshold

from . import network as net
from .class_step import class_step
from .epoch import Batch, choose_negatives, plausibility
from .functional import Tensors, laid_out, mean_square, relu_goodness
from .hardware import average
from .recipe import Peer
from .training import TrainingState, apply_gradients, descend, nothing, with_gradients


@torch.no_grad()
def training_step(state: TrainingState, batch: Batch, hard: Tensor) -> Tensor:
    """Update everything that the recipe trains, in place. `hard` (scalar): the share of hard negatives.

    Returns (U + 1, 2): loss and discrimination accuracy of every unit, also of those that it does not train, NaN
    under backpropagation; in the last row cross-entropy and accuracy of the classifier. Of class goodness it is the
    accuracy of each unit, and there is no classifier. No GPU is made to wait.
    """
    recipe, network = state.recipe, state.network
    images = net.to_images(batch.pixels, network, state.dtype)
    if class_goodness(network):
        return class_step(state, images, batch)
    if isinstance(recipe.loss, CrossEntropy):
        return backpropagation(state, images, batch.labels)
    learn = crossing_units if recipe.gradient == "crossing" else local_units
    if batch.hybrids is None:
        read = net.neutral_features(network, state.tensors, images) if HEAD in state.optimizers else None
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


def learn_head(state: TrainingState, x: Tensor | None, labels: Tensor) -> tuple[Tensor | None, Tensor]:
    """Update the linear classifier by its cross-entropy, whose gradient stops at its own inputs x (B, F).

    Returns (logits before the update (B, P), [cross-entropy, accuracy]); (None, NaN) where the recipe has none.
    """
    if x is None:
        return None, nothing(labels)
    logits = net.head_logits(state.tensors, x)
    error = logits.softmax(1) - F.one_hot(labels, logits.shape[1])
    error /= len(labels)
    weight, bias = net.parameter_names(state.network)[HEAD]
    gradients = {weight: error.to(x.dtype).T @ x, bias: error.sum(0)}
    average(gradients.values())
    apply_gradients(state.optimizers[HEAD], state.tensors, gradients)
    report = torch.stack([F.cross_entropy(logits, labels), (logits.argmax(1) == labels).float().mean()])
    return logits, report


# Four ways through the units: each by its own loss, in one pass or in the steps of a recurrent network; gradients
# that cross units (a reading of Scodellaro et al.); and plain backpropagation (their baseline).


def local_units(
    state: TrainingState, x: Tensor, copies: int, unlabelled: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """One pass over the units, each updated on the way, from the first one's input (copies · B, …), the positive
    copies first -> reports (U, 2), and where they are `unlabelled`, what the classifier reads of the positive
    copies, a tensor (B, F) for each scored unit; else nothing is kept."""
    network, loss, reports, features = state.network, state.recipe.loss, [], []
    assert not isinstance(loss, CrossEntropy | ClassLoss)
    for index, unit in enumerate(network.units):
        name = unit_name(index)
        own = {n: t.to(state.dtype) for n, t in net.parameters(network, name, state.tensors).items()}
        x = laid_out(net.normalise(network, index, state.tensors, x, training=True), state.way.channels_last)
        if unit.trained and name in state.learning:
            gradients, x, report = local_gradient(
                network, index, own, {"below": x}, loss, copies, state.peer(name), compiled=state.way.compiled
            )
            average(gradients.values())
            apply_gradients(state.optimizers[name], state.tensors, gradients)
        else:
            x = net.activation(network, index, own, {"below": x})
            _, report = unit_loss(network, loss, mean_square(x), x[0].numel(), copies)
        reports.append(report)
        features += [net.features([x[: len(x) // copies]])] if unlabelled and unit.scored else []
    return torch.stack(reports), features


def recurrent_units(state: TrainingState, images: Tensor, labels: Tensor) -> Tensor:
    """Update every unit by its own loss, averaged over the network's steps (Hinton, section 3.4): images (B, …),
    labels (1 + M, B), the right ones first -> reports (U, 2), means over the steps, too.

    A unit's inputs and its activity of a step ago are given: no gradient flows back in time, or to another unit.
    What the image adds to the first unit, and a label to the last, is the same in all steps and computed before
    them, and the gradients of the weights there after them: they are linear in what comes back, which is added up.
    """
    network, copies = state.network, len(labels)
    tensors = {n: t.to(state.dtype) for n, t in state.tensors.items()}
    patterns = tensors["labels.patterns"][labels.flatten()]
    x = net.embed(network, tensors, images, patterns)
    activities = [net.repeated(y, copies) for y in net.activations(network, tensors, x)]
    constant = {
        net.input_name(index, inputs.source): net.input_parameters(network, index, inputs.source)
        for index, inputs in constant_inputs(network)
    }
    outer = {n: tensors[n].detach().requires_grad_() for names in constant.values() for n in names}
    inner = {n: t for n, t in tensors.items() if n not in outer}
    with torch.enable_grad():
        (below, image), (above, label) = net.constants(network, outer, x, patterns).items()
        known = {below: net.repeated(image, copies), above: label}
    gradients, reports = _learn_in_steps(state, inner, known, activities, copies)
    for path, names in constant.items():
        if path in gradients:
            weights, y = [outer[n] for n in names], known[path]
            through = torch.autograd.grad(y, weights, gradients[path].to(y.dtype))
            gradients |= {n: g.float() for n, g in zip(names, through, strict=True)}
    for index in range(len(network.units)):
        if mine := net.parameters(network, unit_name(index), gradients):
            average(mine.values())
            apply_gradients(state.optimizers[unit_name(index)], state.tensors, mine)
    return reports


def _learn_in_steps(
    state: TrainingState, tensors: Tensors, known: Tensors, activities: list[Tensor], copies: int
) -> tuple[Tensors, Tensor]:
    """The network's steps, from its `activities` before: gradients by name, of `known` too, and reports (U, 2),
    both means over the steps."""
    network, loss, gradients = state.network, state.recipe.loss, Tensors()
    assert network.steps
    assert not isinstance(loss, CrossEntropy | ClassLoss)
    reports, share = torch.zeros(len(network.units), 2, device=activities[0].device), 1 / network.steps.count
    for _ in range(network.steps.count):
        new = []
        for index, received in enumerate(net.step_inputs(network, activities)):
            name, old = unit_name(index), activities[index]
            if name in state.learning:
                found, y, report = local_gradient(
                    network, index, tensors, received, loss, copies, state.peer(name), known, old
                )
                for one, gradient in found.items():
                    if one not in gradients:
                        gradients[one] = torch.zeros_like(gradient, dtype=torch.float32)
                    gradients[one].add_(gradient, alpha=share)
            else:
                y = net.damped(network, old, net.activation(network, index, tensors, received, known))
                _, report = unit_loss(network, loss, mean_square(y), y[0].numel(), copies)
            new.append(y)
            reports[index].add_(report, alpha=share)
        activities = new
    return gradients, reports


def crossing_units(
    state: TrainingState, x: Tensor, copies: int, unlabelled: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """The sum of all trained units' losses, its gradient through the whole network: as `local_units`."""
    network, loss = state.network, state.recipe.loss
    assert not isinstance(loss, CrossEntropy | ClassLoss)
    own = with_gradients(state, _one_loss(state))
    total, reports, features = torch.zeros((), device=x.device), [], []
    with torch.enable_grad():
        for index, unit in enumerate(network.units):
            x = net.normalise(network, index, state.tensors, x, training=True)
            x = net.activation(network, index, own, {"below": x})
            value, report = unit_loss(network, loss, mean_square(x), x[0].numel(), copies)
            total = total + value if unit.trained else total
            reports.append(report)
            features += [net.features([x[: len(x) // copies].detach()])] if unlabelled and unit.scored else []
        descend(state, own, total)
    return torch.stack(reports), features


def backpropagation(state: TrainingState, images: Tensor, labels: Tensor) -> Tensor:
    """The baseline: cross-entropy of the linear classifier, with the neutral label, through the whole network."""
    network = state.network
    own = with_gradients(state, _one_loss(state))
    with torch.enable_grad():
        x = net.embed(network, own, images, own["labels.neutral"][None])
        scored = []
        for index, unit in enumerate(network.units):
            x = net.normalise(network, index, state.tensors, x, training=True)
            x = net.activation(network, index, own, {"below": x})
            scored += [x] if unit.scored else []
        logits = net.head_logits(own, net.features(scored))
        value = F.cross_entropy(logits, labels)
        descend(state, own, value)
    report = torch.stack([value.detach(), (logits.argmax(1) == labels).float().mean()])
    return torch.stack([*[nothing(images)] * len(network.units), report])


def _one_loss(state: TrainingState) -> list[str]:
    """Names of what one loss for the whole network trains; the classifier's only where it is that loss."""
    head = isinstance(state.recipe.loss, CrossEntropy)  # else it has its own (`learn_head`)
    parts = [part for part in state.optimizers if part != HEAD or head]
    return [name for part in parts for name in net.parameters(state.network, part, state.tensors)]


# The gradient of one unit's own loss: nothing flows in from the unit above or out to the one below.


def local_gradient(
    network: Network,
    index: int,
    tensors: Tensors,
    received: Mapping[Source, Tensor],
    loss: PairLoss,
    copies: int = 2,
    peer: tuple[Peer, Tensor] | None = None,
    known: Mapping[str, Tensor] = net.NOTHING,
    old: Tensor | None = None,
    compiled: str = "",
) -> tuple[Tensors, Tensor, Tensor]:
    """The gradient of the unit at `index`, and what it makes of its inputs.

    `received`: the unit's normalised inputs (copies · B, …) by source, the positive copies first; `peer`: peer
    normalisation, with the unit's running mean, which is updated. In a recurrent network, `known` is what some
    inputs add (`network.constants`), and `old` the unit's activity of a step ago; without them and a peer term a
    unit may be `compiled` (`compiled_unit`). Returns (gradient by name, of the unit's parameters in `tensors` and
    of what is `known` by way of weights; activation; [loss, discrimination accuracy] of the batch, without the peer
    term).
    """
    if compiled and old is None and not known and not peer:
        mine = net.parameters(network, unit_name(index), tensors)
        mine = {name: tensor.detach().requires_grad_() for name, tensor in mine.items()}
        with torch.enable_grad():
            value, y, report = compiled_unit(network, index, loss, copies, compiled)(
                mine, received["below"].detach()
            )
            slopes = torch.autograd.grad(value, list(mine.values()))
        return dict(zip(mine, slopes, strict=True)), y.detach(), report
    paths = [net.input_name(index, inputs.source) for inputs in network.units[index].inputs]
    added = {path: known[path] for path in paths if path in known}
    learned = {path: t for path, t in added.items() if t.requires_grad}  # of inputs that have weights
    own = net.parameters(network, unit_name(index), tensors)
    leaves = {n: t.detach().requires_grad_() for n, t in (own | learned).items()}
    given = {source: x.detach() for source, x in received.items()}
    with torch.enable_grad():
        y = net.preactivation(network, index, leaves, given, {p: leaves.get(p, t) for p, t in added.items()})
        pull = peer_term(*peer, y[: len(y) // copies]) if peer else 0.0  # before the ReLU, which is in place
        if old is None:
            goodness = relu_goodness(y)
        else:
            y = net.damped(network, old, F.relu(y))
            goodness = mean_square(y)
        value, report = unit_loss(network, loss, goodness, y[0].numel(), copies)
        gradients = torch.autograd.grad(value + pull, list(leaves.values()))
    return dict(zip(leaves, gradients, strict=True)), y.detach(), report


@functools.lru_cache(maxsize=64)
def compiled_unit(
    network: Network, index: int, loss: PairLoss, copies: int, backend: str
) -> Callable[[Tensors, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """A unit from its parameters and its input (copies · B, …) to (loss, activation, report), by torch.compile,
    which fuses what stands beside its operations, and as much in the gradient."""

    def unit(parameters: Tensors, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = F.relu(net.preactivation(network, index, parameters, {"below": x}))
        goodness = y.to(torch.promote_types(y.dtype, torch.float32)).square().flatten(1).mean(1)
        value, report = unit_loss(network, loss, goodness, y[0].numel(), copies)
        return value, y, report

    compiled: Callable[[Tensors, Tensor], tuple[Tensor, Tensor, Tensor]]
    compiled = torch.compile(unit, dynamic=False, backend=backend)
    return compiled


def unit_loss(
    network: Network, loss: PairLoss, goodness: Tensor, neurons: int, copies: int
) -> tuple[Tensor, Tensor]:
    """Goodness (copies · B,), positives first -> (the batch's loss, [loss, discrimination accuracy] detached)."""
    copy, way = goodness.view(copies, -1), sign(network)
    value = pair_loss(loss, copy[0], copy[1:], neurons, way).mean()
    right = discriminated(loss, copy[0].detach(), copy[1:].detach(), way).mean()
    return value, torch.stack([value.detach(), right])


def pair_loss(loss: PairLoss, positive: Tensor, negative: Tensor, neurons: int, sign: int = 1) -> Tensor:
    """Loss of each image (N,) from the mean squares g⁺ (N,) and g⁻ (M, N) of a unit with so many neurons.

    `sign` −1 is for goodness that is to be low for right labels: differences change their sign.

    The formulas for one negative and their sources stand with the kinds of losses (`ffruntime/core/learning.py`).
    With M of them, the losses on a difference become log(1 + Σₘ e^(−α·(g⁺ − g⁻ₘ))), the cross-entropy of a softmax
    over the copies; that on a threshold takes the mean over the negatives.
    """
    if isinstance(loss, Symmetric):
        return softplus((-sign * loss.alpha * (positive - negative)).logsumexp(0))
    if isinstance(loss, Ratio):
        gap = positive.clamp_min(LOWEST_GOODNESS).log() - negative.clamp_min(LOWEST_GOODNESS).log()
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


# Peer normalisation keeps the mean activities of a unit's neurons similar (Hinton, section 2).


def peer_means(peer: Peer, network: Network, device: torch.device) -> Tensors:
    """The running means before the first step, by unit; without peer normalisation there are none."""
    if not peer.weight:
        return {}
    shapes = enumerate(unit_shapes(network))
    trained = {unit_name(i): shape for i, (_, shape) in shapes if network.units[i].trained}
    return {name: torch.zeros(shape, device=device) for name, shape in trained.items()}


def peer_term(peer: Peer, running: Tensor, positive: Tensor) -> Tensor:
    """The peer term of a unit's loss, from the pre-activations of its positive copies (B, …) -> ().

    As Hinton's published code has it: from each positive image, the pre-activation of neuron j is pulled by
    weight · (m̄ − mⱼ), where m is the running mean of the activations on positive data, updated in place first, and
    m̄ its mean over the unit's neurons. The pull reaches silent neurons, too; a gradient through the ReLU would not.
    """
    now = positive.detach().relu().float().mean(0)
    average([now])
    running.lerp_(now, 1 - peer.decay)
    excess = (running - running.mean()).to(positive.dtype)
    return peer.weight * (positive.mean(0) * excess).sum()
