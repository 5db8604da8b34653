"""An update on the device is what PyTorch computes from the same images, labels and weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import structs

from ffruntime.core.bundle import CALIBRATION
from ffruntime.core.data import to_unit_interval
from ffruntime.core.errors import BundleError
from ffruntime.core.layers import unit_parameters
from ffruntime.core.learning import Hybrids, WrongLabels
from ffruntime.embedding import first_input
from ffruntime.learning import step as module
from ffruntime.learning.draws import hybrids
from ffruntime.learning.step import Arrays, HeadSteps, Settings, UnitSteps, learning_units
from ffruntime.model import Model
from ffruntime.session import Session
from fftrain import network as net
from fftrain.recipe import Recipe
from fftrain.step import local_gradient

STEPS, BATCH = 5, 24


@pytest.fixture(scope="module")
def model(exported: Path) -> Model:
    return Model(exported, session=Session(threads=1), state=False)


@pytest.fixture
def weights(model: Model) -> Arrays:
    """The bundle's, to be changed."""
    return {name: tensor.copy() for name, tensor in model.bundle.weights().items()}


def batches(model: Model, negatives: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images in [0, 1] (B, 1, 28, 28), and labels (1 + M, B), right ones first, spare patterns among the wrong."""
    images, labels = structs.astuple(model.bundle.exemplars(CALIBRATION))
    rng, found = np.random.default_rng(0), []
    for _ in range(STEPS):
        chosen = rng.choice(len(images), BATCH)
        wrong = (labels[chosen] + rng.integers(1, 12, (negatives, BATCH))) % 12
        found.append((to_unit_interval(images[chosen]), np.concatenate([labels[chosen][None], wrong])))
    return found


def device_units(model: Model, weights: Arrays, settings: Settings) -> list[list[float]]:
    network = model.manifest.network
    steps, losses = UnitSteps(model, weights, settings, WrongLabels(), np.random.default_rng(0)), []
    for images, labels in batches(model, settings.negatives):
        positive, *others = (
            first_input(network, weights, images, weights["labels.patterns"][row]) for row in labels
        )
        negative = np.concatenate(others)
        steps.descend(positive, negative)
        losses.append(list(steps.losses))
    return losses


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
        for index, (part, unit) in enumerate(zip(parts, network.units, strict=True)):
            x = net.normalise(unit, part, tensors, x, training=False)
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


@pytest.mark.parametrize("micro_batch", [1, 7, 23])
def test_micro_batches_change_nothing(micro_batch: int, model: Model, weights: Arrays) -> None:
    """With SGD, where an error of a gradient is not blown up by the division by its own size."""
    settings = Settings(optimizer="sgd", negatives=2, lr=1e-2, micro_batch=BATCH)
    expected = {name: array.copy() for name, array in weights.items()}
    whole = device_units(model, expected, settings)
    parts = device_units(model, weights, structs.replace(settings, micro_batch=micro_batch))
    np.testing.assert_allclose(parts, whole, rtol=1e-4)
    for name, array in weights.items():
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-5, err_msg=name)


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


def test_an_update_tells_wrong_labels_from_right_ones_better(model: Model, weights: Arrays) -> None:
    """Every unit's loss on one batch falls; nothing but what learns is changed."""
    network = model.manifest.network
    images, labels = structs.astuple(model.bundle.exemplars(CALIBRATION).take(slice(32)))
    before = {name: array.copy() for name, array in weights.items()}

    def learn(count: int) -> tuple[float, ...]:
        steps = UnitSteps(model, weights, Settings(lr=3e-3), WrongLabels(), np.random.default_rng(0))
        for _ in range(count):
            steps.step(to_unit_interval(images), labels, lambda x: np.zeros((len(x), 12), np.float32))
        return steps.losses

    first = learn(1)
    assert all(now < then for now, then in zip(learn(30), first, strict=True))
    changed = {name for name, array in weights.items() if not np.array_equal(array, before[name])}
    assert changed == {t.name for index in range(3) for t in unit_parameters(network, index)}


def test_pairs_are_of_right_and_wrong_labels_or_of_images_and_hybrids(
    model: Model, weights: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = structs.astuple(model.bundle.exemplars(CALIBRATION))
    images, labels, network = to_unit_interval(images[:6]), labels[:6], model.manifest.network
    others, wrong = np.stack([images[::-1], images[[1, 0, 3, 2, 5, 4]]]), np.stack([(labels + 1) % 12] * 2)
    monkeypatch.setattr(module, "hybrids", lambda *_: others)
    monkeypatch.setattr(module, "choose_negatives", lambda *_: wrong)
    patterns, neutral = weights["labels.patterns"], weights["labels.neutral"][None]
    for kind, copies in (
        (WrongLabels(), [(images, patterns[labels]), *((images, patterns[row]) for row in wrong)]),
        (Hybrids(3), [(images, neutral), *((other, neutral) for other in others)]),
    ):
        steps = UnitSteps(model, weights, Settings(negatives=2), kind, np.random.default_rng(0))
        pair = steps.pairs(images, labels, lambda x: np.zeros((len(x), 12)))
        expected = [first_input(network, weights, *copy) for copy in copies]
        np.testing.assert_array_equal(np.concatenate(pair), np.concatenate(expected))
        assert [len(part) for part in pair] == [6, 12]


def learn_from_hybrids(model: Model, weights: Arrays, images: np.ndarray, count: int) -> tuple[float, ...]:
    steps = UnitSteps(model, weights, Settings(lr=3e-3), Hybrids(3), np.random.default_rng(0))
    shown = to_unit_interval(images[:32])
    for _ in range(count):
        labels = np.zeros(len(shown), np.int64)
        steps.step(shown, labels, lambda _: pytest.fail("nobody has to ask which label is plausible"))
    return steps.losses


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


def test_one_picture_alone_has_nothing_to_be_mixed_with(model: Model, weights: Arrays) -> None:
    before = {name: array.copy() for name, array in weights.items()}
    assert learn_from_hybrids(model, weights, model.bundle.exemplars(CALIBRATION).pixels[:1], 3) == ()
    assert all(np.array_equal(array, before[name]) for name, array in weights.items())


def test_a_bundle_without_gradients_cannot_learn(model: Model) -> None:
    with pytest.raises(BundleError, match="ffexport"):
        learning_units(model.manifest.network, {"unit1.onnx": None})
    assert learning_units(model.manifest.network, {"gradient2.onnx": None}) == [1]
