"""An update on the device: what it changes, and from what. (PyTorch's: `integration/test_update.py`.)"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from device_steps import BATCH, device_units, learn_from_hybrids
from msgspec import structs
from shapes import PATTERNS

from ffruntime.core.bundle import CALIBRATION
from ffruntime.core.data import to_unit_interval
from ffruntime.core.errors import BundleError
from ffruntime.core.layers import unit_parameters
from ffruntime.core.learning import Hybrids, WrongLabels
from ffruntime.embedding import first_input
from ffruntime.learning import step as module
from ffruntime.learning.step import Arrays, Settings, UnitSteps, learning_units
from ffruntime.model import Model
from ffruntime.session import Session


@pytest.fixture(scope="module")
def model(exported: Path) -> Model:
    return Model(exported, session=Session(threads=1), state=False)


@pytest.fixture
def weights(model: Model) -> Arrays:
    """The bundle's, to be changed."""
    return {name: tensor.copy() for name, tensor in model.bundle.weights().items()}


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


def test_an_update_tells_wrong_labels_from_right_ones_better(model: Model, weights: Arrays) -> None:
    """Every unit's loss on one batch falls; nothing but what learns is changed."""
    network = model.manifest.network
    images, labels = structs.astuple(model.bundle.exemplars(CALIBRATION).take(slice(32)))
    before = {name: array.copy() for name, array in weights.items()}

    def learn(count: int) -> tuple[float, ...]:
        steps = UnitSteps(model, weights, Settings(lr=3e-3), WrongLabels(), np.random.default_rng(0))
        for _ in range(count):
            steps.step(to_unit_interval(images), labels, lambda x: np.zeros((len(x), PATTERNS), np.float32))
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
    others, wrong = np.stack([images[::-1], images[[1, 0, 3, 2, 5, 4]]]), np.stack([(labels + 1) % PATTERNS] * 2)
    monkeypatch.setattr(module, "hybrids", lambda *_: others)
    monkeypatch.setattr(module, "choose_negatives", lambda *_: wrong)
    patterns, neutral = weights["labels.patterns"], weights["labels.neutral"][None]
    for kind, copies in (
        (WrongLabels(), [(images, patterns[labels]), *((images, patterns[row]) for row in wrong)]),
        (Hybrids(3), [(images, neutral), *((other, neutral) for other in others)]),
    ):
        steps = UnitSteps(model, weights, Settings(negatives=2), kind, np.random.default_rng(0))
        pair = steps.pairs(images, labels, lambda x: np.zeros((len(x), PATTERNS)))
        expected = [first_input(network, weights, *copy) for copy in copies]
        np.testing.assert_array_equal(np.concatenate(pair), np.concatenate(expected))
        assert [len(part) for part in pair] == [6, 12]


def test_one_picture_alone_has_nothing_to_be_mixed_with(model: Model, weights: Arrays) -> None:
    before = {name: array.copy() for name, array in weights.items()}
    assert learn_from_hybrids(model, weights, model.bundle.exemplars(CALIBRATION).pixels[:1], 3) == ()
    assert all(np.array_equal(array, before[name]) for name, array in weights.items())


def test_a_bundle_without_gradients_cannot_learn(model: Model) -> None:
    with pytest.raises(BundleError, match="ffexport"):
        learning_units(model.manifest.network, {"unit1.onnx": None})
    assert learning_units(model.manifest.network, {"gradient2.onnx": None}) == [1]
