"""One step of training a recurrent network: every unit learns in each of the network's steps (Hinton, section 3.4).

A unit's inputs and its activity of a step ago are given: no gradient flows back in time, or to another unit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ffruntime.core.architecture import constant_inputs, unit_name

from . import network as net
from .distributed import average
from .gradient import local_gradient, unit_loss
from .operations import Tensors
from .optimizer import apply_gradients
from .recipe import CrossEntropy
from .state import State


def recurrent_units(state: State, images: Tensor, labels: Tensor) -> Tensor:
    """Update every unit by its own loss, averaged over the network's steps: images (B, …), labels (1 + M, B), the
    right ones first -> reports (U, 2), means over the steps, too.

    What the image adds to the first unit, and a label to the last, is the same in all steps and computed before
    them, and the gradients of the weights there after them: they are linear in what comes back, which is added up.
    """
    network, copies = state.network, len(labels)
    assert network.steps
    tensors = {n: t.to(state.dtype) for n, t in state.tensors.items()}
    patterns = tensors["labels.patterns"][labels.flatten()]
    x = net.embed(network, tensors, images, patterns)
    activities = [net.repeated(y, copies) for y in net.activations(network, tensors, x)]
    constant = tuple(f"{unit_name(index)}.{inputs.source}." for index, inputs in constant_inputs(network))
    outer = {n: t.detach().requires_grad_() for n, t in tensors.items() if n.startswith(constant)}
    inner = {n: t for n, t in tensors.items() if n not in outer}
    with torch.enable_grad():
        (below, image), (above, label) = net.constants(network, outer, x, patterns).items()
        known = {below: net.repeated(image, copies), above: label}
    gradients, reports = _learn_in_steps(state, inner, known, activities, copies)
    for path, y in known.items():
        if path in gradients:
            weights = {n: t for n, t in outer.items() if n.startswith(f"{path}.")}
            through = torch.autograd.grad(y, list(weights.values()), gradients[path].to(y.dtype))
            gradients |= {n: g.float() for n, g in zip(weights, through, strict=True)}
    for index in range(len(network.units)):
        if mine := net.parameters(unit_name(index), gradients):
            average(mine.values())
            apply_gradients(state.optimizers[unit_name(index)], state.tensors, mine)
    return reports


def _learn_in_steps(
    state: State, tensors: Tensors, known: Tensors, activities: list[Tensor], copies: int
) -> tuple[Tensors, Tensor]:
    """The network's steps, from its `activities` before: gradients by name, of `known` too, and reports (U, 2),
    both means over the steps."""
    network, loss, gradients = state.network, state.recipe.loss, Tensors()
    assert network.steps
    assert not isinstance(loss, CrossEntropy)
    reports, share = torch.zeros(len(network.units), 2, device=activities[0].device), 1 / network.steps.count
    for _ in range(network.steps.count):
        new = []
        for index, received in enumerate(net.step_inputs(network, activities)):
            name, old = unit_name(index), activities[index]
            if name in state.learning:
                peer = (state.recipe.peer, state.peers[name]) if name in state.peers else None
                found, y, report = local_gradient(network, index, tensors, received, loss, copies, peer, known, old)
                for one, gradient in found.items():
                    if one not in gradients:
                        gradients[one] = torch.zeros_like(gradient, dtype=torch.float32)
                    gradients[one].add_(gradient, alpha=share)
            else:
                y = net.damped(network, old, net.activation(network, index, tensors, received, known))
                _, report = unit_loss(network, loss, net.mean_square(y), y[0].numel(), copies)
            new.append(y)
            reports[index].add_(report, alpha=share)
        activities = new
    return gradients, reports
