"""An update on the device is what PyTorch computes from the same images, labels and weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from device_steps import BATCH, STEPS, batches, device_units, learn_from_hybrids
from msgspec import structs

from ffruntime.core.bundle import CALIBRATION
from ffruntime.core.data import to_unit_interval
from ffruntime.learning.draws import hybrids
from ffruntime.learning.step import Arrays, HeadSteps, Settings
from ffruntime.model import Model
from ffruntime.session import Session
from fftrain import network as net
from fftrain.recipe import Recipe
from fftrain.step import local_gradient


@pytest.fixture(scope="module")
def model(exported: Path) -> Model:
    return Model(exported, session=Session(threads=1), state=False)


@pytest.fixture
def weights(model: Model) -> Arrays:
    """The bundle's, to be changed."""
    return {name: tensor.copy() for name, tensor in model.bundle.weights().items()}


def torch_units(model: Model, recipe: Recipe, weights: Arrays, settings: Settings) -> list[list[float]]:
    """The same in PyTorch, with statistics frozen as on the device; changes `weights`."""
    network, tensors = model.manifest.network, {name: torch.from_numpy(array) for name, array in weights.items()}
    make = torch.optim.Adam if settings.optimizer == "adam" else lambda own, lr: torch.optim.SGD(own, lr, 0.9)
    parts = [f"unit{k}" for k in range(1, len(network.units) + 1)]
    optimizers = {
        part: make(list(net.parameters(network, part, tensors).values()), lr=settings.lr) for part in parts
    }
    losses: list[list[float]] = []
    for pixels, labels in batches(model, settings.negatives):
        images = (torch.from_numpy(pixels) - network.image.mean) / network.image.std
        x = net.embed_copies(network, tensors, images, torch.from_numpy(labels))
        losses.append([])
        for index, part in enumerate(parts):
            x = net.normalise(network, index, tensors, x, training=False)
            gradients, x, report = local_gradient(network, index, tensors, {"below": x}, recipe.loss, len(labels))
            for name, parameter in net.parameters(network, part, tensors).items():
                parameter.grad = gradients[name]
            optimizers[part].step()
            losses[-1].append(float(report[0]))
    return losses


def assert_close(weights: Arrays, expected: Arrays, original: Arrays) -> None:
    """To 1e-4, and on the whole to a twentieth of what has changed.

    But for one weight in a hundred: Adam divides a gradient by its size, and where that is rounding alone, so is
    the step.
    """
    for name, array in weights.items():
        difference = np.abs(array - expected[name])
        assert np.quantile(difference, 0.99) <= 1e-4, name
        change = np.linalg.norm(expected[name] - original[name])
        assert np.linalg.norm(difference) <= 0.05 * change, name


@pytest.mark.parametrize("negatives", [1, 3])
@pytest.mark.parametrize(("optimizer", "lr"), [("adam", 1e-3), ("sgd", 1e-2)])
def test_units_learn_as_in_pytorch(
    optimizer: str, lr: float, negatives: int, model: Model, tiny_recipe: Recipe, weights: Arrays
) -> None:
    settings = Settings(optimizer=optimizer, negatives=negatives, lr=lr, micro_batch=BATCH)
    original, expected = ({name: array.copy() for name, array in weights.items()} for _ in range(2))
    losses = device_units(model, weights, settings)
    np.testing.assert_allclose(losses, torch_units(model, tiny_recipe, expected, settings), rtol=1e-3)
    assert_close(weights, expected, original)


@pytest.mark.parametrize("micro_batch", [BATCH, 7])
def test_the_classifier_learns_as_in_pytorch(micro_batch: int, model: Model, weights: Arrays) -> None:
    settings = Settings(head_steps=STEPS, batch=BATCH, micro_batch=micro_batch, head_lr=1e-2)
    images, labels = structs.astuple(model.bundle.exemplars(CALIBRATION))
    head = [torch.nn.Parameter(torch.from_numpy(weights[name].copy())) for name in ("head.weight", "head.bias")]
    adam = torch.optim.Adam(head, lr=1e-2)

    def features(x: np.ndarray) -> np.ndarray:
        return model.graph("classifier")({"images": x})["features"]

    losses = []
    for step in range(STEPS):
        some = slice(step * BATCH, (step + 1) * BATCH)
        x = torch.from_numpy(features(to_unit_interval(images[some])))
        loss = torch.nn.functional.cross_entropy(x @ head[0].T + head[1], torch.from_numpy(labels[some]))
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())

    steps = HeadSteps(model, weights, settings)
    for start in range(0, STEPS * BATCH, BATCH):
        some = slice(start, start + BATCH)
        steps.step(features(to_unit_interval(images[some])), labels[some])
    assert steps.loss == pytest.approx(losses[-1], rel=1e-4)
    for name, parameter in zip(("head.weight", "head.bias"), head, strict=True):
        np.testing.assert_allclose(weights[name], parameter.detach().numpy(), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_without_labels_images_are_told_from_hybrids(model: Model, weights: Arrays) -> None:
    """After some steps, from hybrids of other images by other masks."""
    images = model.bundle.exemplars(CALIBRATION).pixels
    new, network = to_unit_interval(images[100:]), model.manifest.network
    mixed = hybrids(new, 1, 3, np.random.default_rng(1))[0]

    def goodness(x: np.ndarray) -> torch.Tensor:
        tensors = {name: torch.from_numpy(tensor) for name, tensor in weights.items()}
        standardised = (torch.from_numpy(x) - network.image.mean) / network.image.std
        shown = net.embed(network, tensors, standardised, tensors["labels.neutral"][None])
        return net.forward(network, tensors, shown)[0]

    def told() -> float:
        return float((goodness(new) > goodness(mixed)).float().mean())

    before = told()
    learn_from_hybrids(model, weights, images[:100], 60)
    assert told() > before + 0.1
