"""Peer normalisation."""

from __future__ import annotations

import pytest
import torch
from msgspec import structs

from ffruntime.core.errors import UsageError
from fftrain import network as net
from fftrain.dataset import Dataset
from fftrain.epoch import Batch
from fftrain.recipe import Peer, Recipe, load_recipe
from fftrain.run import Run, start
from fftrain.step import peer_means, peer_term, training_step


def test_the_pull_is_hintons() -> None:
    """weight · (m̄ − mⱼ) on the pre-activation, a mean over the images, for neurons that are silent as well."""
    before = torch.tensor([[1.0, -2.0, 3.0], [3.0, -4.0, -1.0]], requires_grad=True)
    running = torch.tensor([0.5, 0.5, 0.5])
    peer_term(Peer(0.03, 0.9), running, before).backward()
    expected = 0.9 * 0.5 + 0.1 * torch.tensor([2.0, 0.0, 1.5])
    assert torch.allclose(running, expected)
    assert before.grad is not None
    assert torch.allclose(-before.grad, (0.03 / 2) * (expected.mean() - expected).expand(2, 3))


def small(weight: float, dataset: Dataset) -> Run:
    recipe = load_recipe("hinton-mlp", [("network.units.*.ops.0.out", 40), ("peer.weight", weight)])
    return start(recipe, dataset, 0, torch.device("cpu"), torch.float32)


@pytest.mark.slow
def test_peers_become_alike_and_the_silent_wake_up(dataset: Dataset) -> None:
    spread, awake = [], []
    for weight in (0.0, 0.6):
        run = small(weight, dataset)
        run.tensors["unit2.linear1.bias"][:5] = -6.0
        for index in range(60):
            chosen = slice(100 * index, 100 * (index + 1))
            noise = torch.rand(100, 1, 2, generator=torch.Generator().manual_seed(index))
            batch = Batch(dataset.train.pixels[chosen], dataset.train.labels[chosen], noise)
            training_step(run, batch, torch.tensor(0.0))
        means = activity(run, dataset)
        spread.append(float(means.std() / means.mean()))
        awake.append(int((means[:5] > 0).sum()))
    assert spread[1] < 0.7 * spread[0]
    assert awake[1] > awake[0]


def activity(run: Run, dataset: Dataset) -> torch.Tensor:
    """Mean activation of the second unit's neurons on images with their right labels."""
    images = net.to_images(dataset.train.pixels[:500], run.network, torch.float32)
    x = net.embed(run.network, run.tensors, images, run.tensors["labels.patterns"][dataset.train.labels[:500]])
    for index in range(2):
        x = net.activation(run.network, index, run.tensors, {"below": net.normalise_divisive(x)})
    return x.mean(0)


def test_only_trained_units_have_a_mean(dataset: Dataset) -> None:
    recipe = load_recipe("hinton-mlp", [("network.units.*.ops.0.out", 8), ("network.units.0.trained", False)])
    run = start(recipe, dataset, 0, torch.device("cpu"), torch.float32)
    assert set(run.peers) == {"unit2", "unit3", "unit4"}
    assert peer_means(Peer(), run.network, run.device) == {}


def test_gradients_that_cross_units_have_no_peers(tiny_recipe: Recipe, dataset: Dataset) -> None:
    recipe = structs.replace(tiny_recipe, peer=Peer(0.03), gradient="crossing")
    with pytest.raises(UsageError, match="peer normalisation needs gradients that stay in their unit"):
        start(recipe, dataset, 0, torch.device("cpu"), torch.float32)
