"""One step of training a recurrent network: every unit learns in each of the network's steps (Hinton, section 3.4).

A unit's inputs and its activity of a step ago are given: no gradient flows back in time, or to another unit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ffruntime.architecture import unit_name

from . import network as net
from .distributed import average
from .gradient import local_gradient, unit_loss
from .operations import Tensors
from .optimizer import apply_gradients
from .recipe import CrossEntropy
from .state import State


def recurrent_units(state: State, images: Tensor, labels: Tensor) -> Tensor:
    """Update every unit by its own loss, averaged over the network's steps: images (B, …), labels (1 + M, B), the
    right ones first -> reports (U, 2), means over the steps, too."""
    network, loss, copies = state.network, state.recipe.loss, len(labels)
    assert network.steps
    assert not isinstance(loss, CrossEntropy)
    tensors = {n: t.to(state.dtype) for n, t in state.tensors.items()}
    x = net.embed(network, tensors, images, tensors["labels.neutral"][None])
    activities = [y.repeat(copies, *[1] * (y.ndim - 1)) for y in net.activations(network, tensors, x)]
    below = net.normalise(network.units[0], unit_name(0), tensors, x, training=True)
    below = below.repeat(copies, *[1] * (below.ndim - 1))
    patterns = tensors["labels.patterns"][labels.flatten()]
    sums: Tensors = {}
    reports = torch.zeros(len(network.units), 2, device=images.device)
    for _ in range(network.steps.count):
        new = []
        for index, (x, others) in enumerate(net.step_inputs(network, below, patterns, activities)):
            name, old = unit_name(index), activities[index]
            if name in state.learning:
                peer = (state.recipe.peer, state.peers[name]) if name in state.peers else None
                gradients, y, report = local_gradient(network, index, tensors, x, loss, copies, peer, others, old)
                for parameter, gradient in gradients.items():
                    if parameter in sums:
                        sums[parameter] += gradient
                    else:
                        sums[parameter] = gradient.float()
            else:
                y = net.damped(network, old, net.activation(network, index, tensors, x, others))
                _, report = unit_loss(network, loss, net.mean_square(y), y[0].numel(), copies)
            new.append(y)
            reports[index] += report
        activities = new
    average(sums.values())
    for gradient in sums.values():
        gradient /= network.steps.count
    for index in range(len(network.units)):
        if mine := net.parameters(unit_name(index), sums):
            apply_gradients(state.optimizers[unit_name(index)], state.tensors, mine)
    return reports / network.steps.count
