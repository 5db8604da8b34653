"""Chunks change nothing but how much is computed at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ffruntime.chunks import in_chunks
from ffruntime.model import Model


@pytest.mark.parametrize(("batch", "labels"), [(1, 1), (2, 5), (16, 16)])
def test_a_chunked_graph_is_the_graph(exported: Path, batch: int, labels: int) -> None:
    model = Model(exported)
    images = np.random.default_rng(0).random((5, 1, 28, 28), np.float32)
    asked = np.array([11, 3, 3, 0, 7, 9, 1])
    for name, inputs in (("goodness", {"images": images, "labels": asked}), ("classifier", {"images": images})):
        whole, chunked = model.graph(name)(inputs), in_chunks(model.graph(name), batch, labels)(inputs)
        assert whole.keys() == chunked.keys()
        for output in whole:
            np.testing.assert_allclose(chunked[output], whole[output], rtol=1e-5, atol=1e-6)
