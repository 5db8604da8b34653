"""The row of a class that a chip never saw begins as ffruntime begins it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from chip import CLASSES, Chip, needs_compiler
from counting import halves

from ffexport.c.imprint import MOST, beginnings, features
from ffruntime.core.architecture import scored_units
from ffruntime.core.bundle import CALIBRATION
from ffruntime.core.data import Examples, to_unit_interval
from ffruntime.core.layers import KNOWN
from ffruntime.learning.rows import begin_rows
from ffruntime.model import Model
from ffruntime.session import Session

NEW = 6


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(CLASSES, session=Session(threads=1), state=False)


def test_features_are_those_of_the_graph(model: Model) -> None:
    network, images = model.manifest.network, model.bundle.exemplars().pixels[:10]
    own = features(network, model.bundle.weights(), images)
    scored = np.concatenate([own[index] for index in scored_units(network)], axis=1)
    told = model.graph("goodness")({"images": to_unit_interval(images), "labels": np.zeros(1, np.int64)})
    np.testing.assert_allclose(scored, told["features"], atol=1e-4)


def test_nothing_begins_beside_one_class(model: Model) -> None:
    examples = model.bundle.exemplars()
    one = examples.take(examples.labels == 0)
    assert beginnings(model.manifest.network, model.bundle.weights(), one) == {}


@needs_compiler
@pytest.mark.slow
def test_a_row_begins_as_ffruntime_begins_it(tmp_path: Path, model: Model) -> None:
    """Of one image: in the same direction, about as long; and it is known from then on."""
    bundle, image = model.bundle, halves(1)[0]
    images = bundle.exemplars(CALIBRATION)
    with Chip.of(tmp_path, bundle, "readouts") as chip:
        chip.settings(0.0)
        assert chip.new_class("half") == ("OK", NEW)
        assert chip.weights()[KNOWN][NEW] == 0
        assert chip.learn(image, NEW) == "OK"
        own = chip.weights()
        assert own[KNOWN][NEW] == 1
        assert chip.classify(image)[0] == NEW
    expected = {name: tensor.copy() for name, tensor in bundle.weights().items()}
    classes = [images.take(np.flatnonzero(images.labels == label)[:MOST]) for label in range(NEW)]
    begin_rows(model, expected, [*classes, Examples(image[None], np.array([NEW]))], 16)
    for index in range(3):
        ours, theirs = (some[f"unit{index + 1}.readout.weight"][NEW] for some in (own, expected))
        cosine = float(ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs))
        assert cosine > 0.9999
        assert 0.7 < np.linalg.norm(ours) / np.linalg.norm(theirs) < 1.5
