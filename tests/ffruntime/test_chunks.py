"""Chunks change nothing but how much is computed at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from shapes import SHAPE

from ffruntime.backend import Graph, gradient_in_chunks, in_chunks
from ffruntime.core.architecture import unit_shapes
from ffruntime.core.graphs import GraphFile, head_gradient, unit_gradient
from ffruntime.model import Model


@pytest.mark.parametrize(("batch", "labels"), [(1, 1), (2, 5), (16, 16)])
def test_a_chunked_graph_is_the_graph(exported: Path, batch: int, labels: int) -> None:
    model = Model(exported)
    images = np.random.default_rng(0).random((5, *SHAPE), np.float32)
    asked = np.array([5, 3, 3, 0, 7, 4, 1])
    for name, inputs in (("goodness", {"images": images, "labels": asked}), ("classifier", {"images": images})):
        whole, chunked = model.graph(name)(inputs), in_chunks(model.graph(name), batch, labels)(inputs)
        assert whole.keys() == chunked.keys()
        for output in whole:
            np.testing.assert_allclose(chunked[output], whole[output], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("negatives", [1, 3])
def test_a_chunked_gradient_is_the_gradient(exported: Path, negatives: int) -> None:
    """With one negative for each image, and with several, in chunks of which the last is smaller."""
    model, random = Model(exported), np.random.default_rng(0)
    network, weights = model.manifest.network, model.bundle.weights()
    shape = unit_shapes(network)[1][0]
    inputs = {
        "positive": random.random((5, *shape), np.float32),
        "negative": random.random((5 * negatives, *shape), np.float32),
        **{name: weights[name] for name in unit_gradient(network, 1).takes},
    }
    compare(model.graph("gradient2"), inputs, ("positive", "negative"), unit_gradient(network, 1))


def test_a_chunked_gradient_of_the_head_is_the_gradient(exported: Path) -> None:
    model, random = Model(exported), np.random.default_rng(0)
    head = {n: t for n, t in model.bundle.weights().items() if n.startswith("head.")}
    features = random.random((5, head["head.weight"].shape[1]), np.float32)
    inputs = {"features": features, "labels": np.array([1, 0, 5, 3, 3]), **head}
    compare(model.graph("gradient_head"), inputs, ("features", "labels"), head_gradient(model.manifest.network))


def compare(graph: Graph, inputs: dict[str, np.ndarray], rows: tuple[str, ...], of: GraphFile) -> None:
    """Every output, whole and in chunks of two images."""
    whole, chunked = graph(inputs), gradient_in_chunks(graph, 2, rows, of.means)(inputs)
    assert whole.keys() == chunked.keys()
    for name, value in whole.items():
        assert chunked[name].dtype == value.dtype
        np.testing.assert_allclose(chunked[name], value, rtol=1e-4, atol=1e-5 * np.abs(value).max())
