"""The device's model, against the graphs as they were made and against the trainer's scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ffexport.gradient_graphs import all_gradient_graphs
from ffexport.inference_graphs import all_graphs
from ffruntime import Model, Session
from ffruntime.core.architecture import Conv, Image, Input, Label, Linear, Local, Network, Relu, Unit
from ffruntime.core.bundle import Bundle
from ffruntime.core.graphs import graphs
from ffruntime.core.layers import tensor_shapes
from ffruntime.core.learning import Symmetric
from ffruntime.core.state import Weights
from fftrain.evaluation import classifier_scores, goodness_scores
from fftrain.run import Run


@pytest.fixture(scope="module")
def model(exported: Path) -> Model:
    return Model(exported)


@pytest.mark.parametrize("mode", ["goodness", "classifier"])
def test_scores_are_the_trainers(mode: str, model: Model, trained_run: Run) -> None:
    pixels = trained_run.dataset.validation.pixels[:50]
    score = {"goodness": goodness_scores, "classifier": classifier_scores}[mode]
    expected = score(trained_run.network, trained_run.tensors, pixels, 10).numpy()
    np.testing.assert_allclose(model.scores(pixels.numpy(), mode), expected, rtol=1e-4, atol=1e-4)


UNITS = (
    Unit((Conv(3, 3, padding=1), Relu()), (Input(normalise="batch"),), scored=False),
    Unit((Local(2, 3), Relu()), (Input(normalise="batch"),)),
    Unit((Linear(5, bias=False), Relu())),
    Unit((Linear(4), Relu()), scored=False),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "label", [Label("add", 3), Label("channel", 3, 2), Label("morphology", 3, element=3)], ids=lambda x: x.placement
)
def test_tensors_of_a_graph_are_its_initializers(label: Label) -> None:
    """What the graphs take before `onnx_files.py` turns it into initializers; gradients keep them as inputs."""
    network = Network(Image((1, 8, 8)), label, UNITS)
    names = tensor_shapes(network).keys()
    for name, graph in all_graphs(network).items():
        assert graphs(network)[name].holds == names & {value.name for value in graph.graph.input}, name
    for name in all_gradient_graphs(network, Symmetric()):
        assert not graphs(network)[name].holds


def rewritten(path: Path, factor: float) -> dict[str, np.ndarray]:
    """Every weight and bias of the bundle, changed."""
    weights = Bundle(path).weights()
    return {name: tensor * np.float32(factor) for name, tensor in weights.items() if "labels" not in name}


@pytest.mark.parametrize("arena", [True, False])
@pytest.mark.parametrize("mode", ["goodness", "classifier"])
def test_learned_weights_are_those_of_a_bundle_that_has_them(
    arena: bool, mode: str, bundle: Path, trained_run: Run
) -> None:
    pixels = trained_run.dataset.validation.pixels[:20]
    learned = rewritten(bundle, 1.1)
    shipped = Model(bundle)
    before = shipped.scores(pixels.numpy(), mode)
    weights = Weights(learned, shipped.classes)
    after = Model(bundle, weights, Session(arena=arena)).scores(pixels.numpy(), mode)
    score = {"goodness": goodness_scores, "classifier": classifier_scores}[mode]
    tensors = {**trained_run.tensors, **{name: torch.from_numpy(tensor) for name, tensor in learned.items()}}
    expected = score(trained_run.network, tensors, pixels, 10).numpy()
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(after - before).max() > 1e-2
