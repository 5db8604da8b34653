"""Class statistics when training ends: gathered, chosen on validation images, in the bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import structs

from ffruntime.core import statistics
from ffruntime.core.architecture import class_goodness
from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.closed_form import tell
from ffruntime.core.data import Examples
from ffruntime.core.errors import BundleError
from ffruntime.core.gaussians import Shrinkage, Weight
from ffruntime.core.layers import statistics_features
from ffruntime.core.manifest import EXIT, STATISTICS, TYPICALITY, WEIGHTS, lone_units
from ffruntime.core.projection import project
from fftrain import network as net
from fftrain.class_statistics import (
    Made,
    choose_shrinkage,
    choose_weight,
    examples,
    gather,
    of_bundle,
    with_statistics,
)
from fftrain.dataset import Dataset
from fftrain.evaluation import measure, predict
from fftrain.pack import completed, pack_run
from fftrain.recipe import load_recipe
from fftrain.run import Run, start
from fftrain.typicality import gather_units

FEW = 400


@pytest.fixture(scope="module", params=["class", "tiny"])
def run(dataset: Dataset, request: pytest.FixtureRequest) -> Run:
    """An untrained network of either kind, and few images."""
    if request.param == "class":
        recipe = load_recipe("class", [(f"network.units.{unit}.ops.0.out", 4) for unit in range(3)])
    else:
        recipe = load_recipe("cpu", [(f"network.units.{unit}.ops.0.out", 2) for unit in range(3)])
    train = Examples(dataset.train.pixels[:FEW], dataset.train.labels[:FEW])
    validation = Examples(dataset.validation.pixels[:100], dataset.validation.labels[:100])
    few = structs.replace(dataset, train=train, validation=validation)
    return start(recipe, few, 0, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def scores(run: Run) -> dict[str, np.ndarray]:
    return predict(run.network, run.tensors, run.dataset.validation, 10, modes=run.modes)


@pytest.fixture(scope="module")
def made(run: Run, scores: dict[str, np.ndarray]) -> Made:
    return gather(run.network, run.tensors, run.dataset.train, run.dataset.validation, scores, 10)


def test_statistics_are_of_every_training_image(run: Run, made: Made) -> None:
    """Of its features, quantized and projected; those of a whole pass are what the scored units put out."""
    network, train = run.network, run.dataset.train
    assert made.how.dimension == statistics.default_dimension(statistics_features(network), 12)
    of_classes = hasattr(network.units[0].readout, "cells")
    images = net.to_images(train.pixels, network, torch.float32)
    features = (net.class_features if of_classes else net.neutral_features)(network, run.tensors, images)
    assert features.shape == (FEW, statistics_features(network))
    x = project(features.numpy(), made.how.dimension, made.how.seed)
    near = examples(network, run.tensors, train, made.how)
    assert (np.abs(near.astype(int) - x) <= 1).all()  # batches round differently
    expected = statistics.of(near, train.labels.numpy(), 10)
    for name in ("counts", "sums", "moment"):
        np.testing.assert_array_equal(getattr(made.statistics, name), getattr(expected, name))


def test_a_bundle_has_them(run: Run, made: Made, tmp_path: Path) -> None:
    """And gives them back; not where the units' weights are others."""
    bundle = pack_run(tmp_path / "model.ff", run, "other", "cpu", "fp32", {}, statistics=made)
    read = of_bundle(Bundle(bundle.path))
    assert read
    assert read.how == made.how
    np.testing.assert_array_equal(*map(statistics.moment, (read.statistics, made.statistics)))
    assert bundle.manifest.files[STATISTICS].size <= statistics.KEPT_BYTES
    tensors = {name: tensor.clone() for name, tensor in run.tensors.items()}
    tensors["unit1.conv1.bias"] += 1
    from safetensors.torch import save

    other = write_bundle(bundle.path, bundle.manifest, {WEIGHTS: save(tensors)})
    with pytest.raises(BundleError, match="made by other units"):
        other.statistics()


def test_answers_are_better_for_them(run: Run, made: Made, scores: dict[str, np.ndarray]) -> None:
    """With class goodness, of an untrained network: statistics of few images tell most. Where the label is in the
    input, classes that are known are answered for as without."""
    validation = run.dataset.validation
    right = validation.labels.numpy()
    told = tell(made.solved, examples(run.network, run.tensors, validation, made.how)).scores
    assert (told.argmax(1) == right).mean() > 0.7
    together, _ = with_statistics(made, run.network, run.tensors, validation, scores)
    for mode, own in scores.items():
        if made.how.weights[mode].beside:
            assert (together[mode].argmax(1) == right).mean() > (own.argmax(1) == right).mean()
        else:
            np.testing.assert_array_equal(together[mode], own)


def test_the_most_isotropic_covariance_that_costs_nothing_is_chosen() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 3
    x = np.rint(rng.normal(0, 3, (600, 8)) + 40 * np.eye(3, 8)[labels]).astype(np.int8)
    found = statistics.of(x[:300], labels[:300], 3)
    assert choose_shrinkage(found, 9.0, x[300:], labels[300:]) == Shrinkage(0.5, 9.0, 300.0)
    x[:, 3:] = np.rint(
        rng.normal(0, 30, (600, 1)) + rng.normal(0, 0.5, (600, 5)) + labels[:, None] * [[1, -1, 1, -1, 1]]
    )
    x[:, :3] = 0
    found = statistics.of(x[:300], labels[:300], 3)
    variance = float(np.trace(statistics.scatter(found)) / 300 / 8)
    assert choose_shrinkage(found, variance, x[300:], labels[300:]).share < 0.5


def test_weights_are_chosen_by_answers() -> None:
    """Statistics that help weigh something, and useless ones nothing."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 500)
    one_hot = np.eye(4)[labels]
    own = one_hot + rng.normal(0, 0.6, (500, 4))
    helpful, useless = 50 * one_hot + rng.normal(0, 30, (500, 4)), rng.normal(0, 30, (500, 4))
    found = choose_weight(own, helpful, labels, (0.0, 0.3, 1.0))
    assert found.beside > 0
    assert 0.002 < found.alone < 0.1
    assert choose_weight(own, useless, labels, (0.0, 0.3, 1.0)).beside == 0
    assert choose_weight(own, helpful, labels, (0.0,)) == Weight(0.0, pytest.approx(found.alone, rel=0.5))


def test_a_bundle_of_a_former_run_is_completed(run: Run, tmp_path: Path) -> None:
    """With the statistics and the calibration of today's training; of class goodness it has typicality."""
    before = pack_run(tmp_path / "model.ff", run, "other", "cpu", "fp32", {})
    after = completed(before, run.dataset)
    manifest, made = after.manifest, of_bundle(after)
    known = manifest.calibration
    assert made
    assert known
    assert known.images == 100
    assert set(known.scores) >= set(run.modes)
    of_classes = class_goodness(run.network)
    assert (known.distances is not None) is of_classes
    assert set(lone_units(run.network)) <= set(known.scores)
    assert (EXIT in known.scores) is of_classes
    assert set(known.units) == ({*lone_units(run.network), EXIT} if of_classes else set())
    if of_classes:
        parts = run.dataset.train, run.dataset.validation
        for name, one in gather_units(run.network, run.tensors, *parts, 10, made.how.dimension).distances.items():
            assert one.max() == pytest.approx(known.units[name].farthest)
            assert known.scores[name].alone
        assert {name.rpartition(".")[2] for name in after.tensors(TYPICALITY)} == {"factor", "centres"}
    split = run.dataset.validation
    own = predict(run.network, run.tensors, split, 10, modes=run.modes)
    told, far = with_statistics(made, run.network, run.tensors, split, own)
    assert (far is not None) is of_classes
    if far is not None:
        assert known.distances
        assert far.max() == pytest.approx(known.distances.farthest)
    for mode, measured in measure(told, split.labels, known, far).items():
        assert measured.unsure <= 0.01
        assert measured.temperature == pytest.approx(known.scores[mode].temperature)
