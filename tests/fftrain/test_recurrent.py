"""A recurrent network's update: that of the losses of all its steps, written down plainly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
import torch
from msgspec import to_builtins
from narrow import narrow
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ffruntime.core.architecture import Image, Op, named_ops, unit_name
from ffruntime.core.cost import constant_macs
from ffruntime.core.learning import CrossEntropy
from fftrain import network as net
from fftrain.dataset import Dataset
from fftrain.epoch import Batch
from fftrain.figures import training_macs
from fftrain.functional import Tensors, apply_op
from fftrain.patterns import make_patterns
from fftrain.recipe import Recipe, build_network
from fftrain.step import pair_loss, peer_means, recurrent_units, training_step
from fftrain.training import TrainingState, make_optimizers
from fftrain.ways import PLAIN

RATE = 0.5
CHANGES: list[dict[str, Any]] = [{}, {"negatives": {"count": 2}}, {"peer": {"weight": 0.0}}]
LINEAR, RELU = {"op": "linear", "out": 12}, {"op": "relu"}
BELOW, ABOVE, OWN = ({"source": source, "ops": [LINEAR]} for source in ("below", "above", "self"))
AS_IT_IS = {"source": "below", "normalise": "none"}  # the sum of inputs has the image's shape
TOP = {"source": "above", "ops": [{"op": "linear", "out": 784}]}
NETWORKS: dict[str, list[dict[str, Any]]] = {
    "one unit": [{"inputs": [BELOW, OWN, ABOVE], "ops": [RELU]}],
    "the first not trained": [
        {"inputs": [BELOW, ABOVE], "ops": [RELU], "trained": False},
        {"inputs": [BELOW, ABOVE], "ops": [RELU]},
    ],
    "the last not trained": [
        {"inputs": [BELOW, ABOVE], "ops": [RELU]},
        {"inputs": [BELOW, ABOVE], "ops": [RELU], "trained": False},
    ],
    "constants without weights": [
        {"inputs": [AS_IT_IS], "ops": [LINEAR, RELU]},
        {"inputs": [{**BELOW, "ops": [{"op": "linear", "out": 10}]}, {"source": "above"}], "ops": [RELU]},
    ],
    "operations after the sum": [{"inputs": [AS_IT_IS, TOP], "ops": [RELU, LINEAR, RELU]}],
    "several operations of an input": [
        {"inputs": [{**BELOW, "ops": [LINEAR, RELU, LINEAR]}, ABOVE], "ops": [RELU]},
    ],
}
ONE_LAYER_EACH = [name for name in NETWORKS if "operations" not in name]  # as is counted


def state_of(recipe: Recipe) -> TrainingState:
    """An untrained network for 28 × 28 pixels; plain gradient descent, so that an update shows the gradient."""
    plain = {"optimizer": {"kind": "sgd", "momentum": 0.0, "weight_decay": 0.0}}
    recipe = msgspec.convert({**to_builtins(recipe), **plain}, Recipe)
    patterns = make_patterns(recipe.patterns, 10, 28, 28)
    network = build_network(recipe, Image((1, 28, 28)), len(patterns["labels.patterns"]))
    tensors = net.initialise(network, patterns, torch.Generator().manual_seed(0))
    optimizers = make_optimizers(recipe, network, tensors)
    for optimizer in optimizers.values():
        optimizer.param_groups[0]["lr"] = RATE
    device = torch.device("cpu")
    peers = peer_means(recipe.peer, network, device)
    return TrainingState(
        recipe, network, tensors, optimizers, peers, frozenset(optimizers), device, torch.float32, PLAIN
    )


def plain_steps(state: TrainingState, own: Tensors, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Hinton, section 3.4, everything computed in every step, from activities of a step ago that are given.

    Returns the loss with peer normalisation, whose running means it updates, and goodness, (copies · B, U)."""
    network, loss = state.network, state.recipe.loss
    assert network.steps
    assert not isinstance(loss, CrossEntropy)
    copies, batch = labels.shape
    image = images.repeat(copies, 1, 1, 1)
    label = own["labels.patterns"][labels.flatten()]
    sign = 1 if network.goodness == "high" else -1

    def made(index: int, source: str, x: Tensor) -> Tensor:
        (inputs,) = (one for one in network.units[index].inputs if one.source == source)
        if inputs.normalise == "divisive":
            x = x / x.flatten(1).square().mean(1).sqrt().clamp_min(1e-4).view(-1, *[1] * (x.ndim - 1))
        return in_turn(named_ops(inputs), f"{unit_name(index)}.{source}", x)

    def in_turn(ops: Iterable[tuple[str, Op]], prefix: str, x: Tensor) -> Tensor:
        for short, op in ops:
            x = apply_op(op, f"{prefix}.{short}", own, x)
        return x

    def before_relu(index: int, x: Tensor) -> Tensor:
        return in_turn(list(named_ops(network.units[index]))[:-1], unit_name(index), x)

    activities, x = [], image
    for index in range(len(network.units)):
        x = before_relu(index, made(index, "below", x)).relu().detach()
        activities.append(x)
    total, counted = torch.zeros(()), []
    for step in range(1, network.steps.count + 1):
        around, new, goodness = [image, *activities, label], [], []
        for index, unit in enumerate(network.units):
            by_source = {"below": around[index], "self": around[index + 1], "above": around[index + 2]}
            parts = [made(index, one.source, by_source[one.source]) for one in unit.inputs]
            z = before_relu(index, parts[0] + sum(part.view_as(parts[0]) for part in parts[1:]))
            if unit_name(index) in state.peers:
                running, peer = state.peers[unit_name(index)], state.recipe.peer
                running.copy_(peer.decay * running + (1 - peer.decay) * z[:batch].detach().relu().mean(0))
                total = total + peer.weight * ((running - running.mean()) * z[:batch].mean(0)).sum()
            y = network.steps.damping * activities[index] + (1 - network.steps.damping) * z.relu()
            g = y.flatten(1).square().mean(1)
            if unit.trained:
                value = pair_loss(loss, g[:batch], g[batch:].view(copies - 1, -1), y[0].numel(), sign)
                total = total + value.mean()
            new.append(y.detach())
            goodness.append(g.detach())
        activities = new
        if network.steps.score[0] <= step <= network.steps.score[1]:
            counted.append(torch.stack(goodness, dim=1))
    return total / network.steps.count, torch.stack(counted).mean(0)


@pytest.mark.parametrize("change", CHANGES, ids=str)
@pytest.mark.parametrize("name", ["hinton-recurrent", "hinton-local", "hinton-local-high"])
def test_an_update_is_that_of_the_losses_of_all_steps(name: str, change: dict[str, Any], dataset: Dataset) -> None:
    compare(msgspec.convert({**to_builtins(narrow(name)), **change}, Recipe), dataset)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_update_of_other_networks(name: str, dataset: Dataset) -> None:
    compare(with_units(NETWORKS[name]), dataset)


def with_units(units: list[dict[str, Any]]) -> Recipe:
    plain = to_builtins(narrow("hinton-recurrent"))
    plain["network"]["units"] = units
    return msgspec.convert({**plain, "patterns": {"kind": "one_hot", "spare": 0}}, Recipe)


def compare(recipe: Recipe, dataset: Dataset) -> None:
    """Of the whole update, and of the running means of peer normalisation."""
    ours, plain = state_of(recipe), state_of(recipe)
    images = net.to_images(dataset.train.pixels[:6], ours.network, torch.float32)
    right = dataset.train.labels[:6]
    labels = torch.stack([(right + shift) % 10 for shift in range(1 + recipe.negatives.count)])
    before = {name: tensor.clone() for name, tensor in ours.tensors.items()}
    with torch.no_grad():
        recurrent_units(ours, images, labels)
    trained = tuple(f"{unit_name(index)}." for index, unit in enumerate(ours.network.units) if unit.trained)
    wanted = {n: t.requires_grad_() for n, t in plain.tensors.items() if n.startswith(trained)}
    loss, _ = plain_steps(plain, plain.tensors, images, labels)
    gradients = dict(zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True))
    for name, tensor in before.items():
        if name not in gradients:
            assert torch.equal(tensor, ours.tensors[name])
            continue
        gradient, moved = gradients[name], (tensor - ours.tensors[name]) / RATE
        scale = float(gradient.abs().max())
        assert scale > 0
        torch.testing.assert_close(moved / scale, gradient / scale, rtol=1e-3, atol=1e-4, msg=name)
    for unit, running in ours.peers.items():
        torch.testing.assert_close(running, plain.peers[unit])


@pytest.mark.parametrize("name", ["hinton-recurrent", "hinton-local", *NETWORKS])
def test_goodness_is_that_of_the_plain_steps(name: str, dataset: Dataset) -> None:
    state = state_of(with_units(NETWORKS[name]) if name in NETWORKS else narrow(name))
    images = net.to_images(dataset.train.pixels[:4], state.network, torch.float32)
    goodness = net.label_goodness(state.network, state.tensors, images, torch.tensor([3, 8, 1]))
    labels = torch.tensor([[3], [8], [1]]).expand(3, 4)
    _, expected = plain_steps(state, state.tensors, images, labels)
    assert goodness.shape == (4, 3, len(state.network.units))
    torch.testing.assert_close(goodness, expected.view(3, 4, -1).transpose(0, 1), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("change", [*CHANGES, {"negatives": {"hard": 1.0, "source": "goodness"}}], ids=str)
def test_the_arithmetic_that_is_counted_is_what_torch_does(change: dict[str, Any]) -> None:
    check_count(msgspec.convert({**to_builtins(narrow("hinton-recurrent")), **change}, Recipe))


@pytest.mark.parametrize("name", ONE_LAYER_EACH)
def test_the_arithmetic_of_other_networks(name: str) -> None:
    check_count(with_units(NETWORKS[name]))


def check_count(recipe: Recipe) -> None:
    state, count = state_of(recipe), recipe.negatives.count
    batch = Batch(torch.zeros(4, 1, 28, 28, dtype=torch.uint8), torch.arange(4), torch.rand(4, count, 2))
    with FlopCounterMode(display=False) as counter:
        training_step(state, batch, torch.tensor(1.0))
    done, network = counter.get_total_flops(), state.network
    if recipe.negatives.source == "goodness":  # once for the batch, and not counted
        done -= 2 * network.label.patterns * constant_macs(network)[1]
    assert done == 2 * 4 * training_macs(recipe, network)
