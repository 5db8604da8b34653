"""Recipe `edges`: nothing is trained, and classes are told by statistics with a covariance of each."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import in_process_text
from msgspec import structs

from ffruntime.core.bundle import Bundle
from ffruntime.core.data import Examples
from ffruntime.core.errors import UsageError
from ffruntime.core.filters import edge_filters
from ffruntime.core.manifest import STATISTICS
from ffruntime.core.statistics import of
from ffruntime.demo.methods import edges
from fftrain import network as net
from fftrain.class_statistics import COUNT_AS, choose_shrinkage, gather
from fftrain.dataset import Dataset
from fftrain.evaluation import predict
from fftrain.recipe import load_recipe
from fftrain.run import Run, start

command = partial(in_process_text, "fftrain")


@pytest.fixture(scope="module")
def run(dataset: Dataset) -> Run:
    train = Examples(dataset.train.pixels[:800], dataset.train.labels[:800])
    validation = Examples(dataset.validation.pixels[:100], dataset.validation.labels[:100])
    few = structs.replace(dataset, train=train, validation=validation)
    return start(load_recipe("edges"), few, 0, torch.device("cpu"), torch.float32)


def test_filters_are_edges_all_the_way_round() -> None:
    filters = edge_filters(4, 5)
    assert (filters.shape, filters.dtype) == ((4, 5, 5), np.float32)
    assert filters.sum((1, 2)) == pytest.approx(0, abs=1e-5)
    assert filters[2] == pytest.approx(-filters[0], abs=1e-5)
    assert filters[1] == pytest.approx(filters[0].T, abs=1e-5)
    assert (filters[0][:, 3:] > 0).all()


def test_the_first_unit_sees_the_edges_of_the_demonstration(run: Run) -> None:
    """Its features are an ordinary convolution's, whose square roots these are."""
    pixels = run.dataset.train.pixels[:20]
    found = net.class_features(run.network, run.tensors, net.to_images(pixels, run.network, torch.float32))
    roots = np.sqrt(found.numpy())
    roots /= np.sqrt(np.square(roots).mean(1, keepdims=True))
    expected = edges(pixels.numpy()).reshape(20, 49, 12).transpose(0, 2, 1).reshape(20, -1)
    np.testing.assert_allclose(roots, expected, atol=1e-3)


def test_colours_are_averaged(run: Run) -> None:
    colours = Examples(torch.zeros(20, 3, 28, 28, dtype=torch.uint8), torch.arange(20) % 10)
    other = start(run.recipe, structs.replace(run.dataset, train=colours), 0, torch.device("cpu"), torch.float32)
    weight = other.tensors["unit1.conv1.weight"]
    assert weight.shape == (12, 3, 5, 5)
    torch.testing.assert_close(weight.sum(1), run.tensors["unit1.conv1.weight"][:, 0])


def test_edges_need_a_convolution(dataset: Dataset) -> None:
    field = "network.units.0.ops.0"
    recipe = load_recipe("edges", [(f"{field}.op", "linear"), (f"{field}.out", 9)])
    with pytest.raises(UsageError, match="does not begin with a convolution"):
        start(recipe, dataset, 0, torch.device("cpu"), torch.float32)


def test_statistics_are_of_each_class_and_the_network_tells_none(run: Run) -> None:
    split = run.dataset.validation
    scores = predict(run.network, run.tensors, split, 10, modes=run.modes)
    made = gather(
        *(run.network, run.tensors, run.dataset.train, split, scores, 10),
        kind=structs.replace(run.recipe.statistics, bytes=20_000),
        trained=False,
    )
    assert (made.how.moment, made.how.root, made.how.together) == ("each", True, 0)
    assert (made.statistics.kind, made.how.dimension) == ("each", 24)
    assert made.how.kept_bytes(12) <= 20_000


def test_what_a_covariance_of_each_begins_with_is_chosen() -> None:
    """Classes of few examples whose covariances are alike begin with much of all, others with little."""
    rng, labels = np.random.default_rng(0), np.arange(600) % 3
    alike = rng.normal(0, 8, (600, 12)) @ rng.normal(0, 1, (12, 12)) + 9 * np.eye(3, 12)[labels]
    apart = rng.normal(0, 4, (600, 12)) * (1 + 3 * labels[:, None])
    chosen = []
    for drawn in (alike, apart):
        x = np.clip(np.rint(drawn), -127, 127).astype(np.int8)
        chosen.append(choose_shrinkage(of(x[:60], labels[:60], 3, "each"), 64.0, x[60:], labels[60:]).examples)
    assert chosen[0] > chosen[1] == min(COUNT_AS["each"])


@pytest.mark.slow
def test_a_bundle_is_made_without_a_step(tmp_path: Path) -> None:
    """With all training images counted, or none: then nothing is said of its accuracy, nor are test images read."""
    options = ("mnist", "--offline", "--recipe", "edges", "--device", "cpu", "--threads", 1, "--json")
    done = command(*options, "--out", tmp_path / "model.ff")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accuracy"]["test"]["goodness"] > 0.8
    bundle = Bundle(tmp_path / "model.ff")
    assert bundle.statistics().counts.sum() == bundle.manifest.training.data.train
    assert bundle.manifest.calibration
    assert bundle.manifest.calibration.distances
    done = command(*options, "--set", "statistics.counted=false", "--out", tmp_path / "empty.ff")
    assert done.returncode == 0, done.stderr
    assert "test images" not in done.stderr
    empty = Bundle(tmp_path / "empty.ff")
    assert (empty.manifest.statistics, STATISTICS in empty) == (bundle.manifest.statistics, False)
    assert empty.manifest.accuracy == {}
    assert not empty.statistics().counts.any()
    assert (tmp_path / "model.ff.report.html").exists()
