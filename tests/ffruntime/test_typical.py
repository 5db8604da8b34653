"""How typical an image is that mode `exit` answers, by the features of the unit that answers it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from counting import with_statistics
from msgspec import structs
from safetensors.numpy import save
from shapes import CLASS_BUNDLE, drawn

from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.calibration import SHARES, Calibration, OfScores, OfUnit, check, nearest
from ffruntime.core.data import to_unit_interval
from ffruntime.core.errors import BundleError
from ffruntime.core.layers import KNOWN
from ffruntime.core.manifest import EXIT, TYPICALITY, EarlyExit, lone_units
from ffruntime.core.projection import project
from ffruntime.core.state import Weights
from ffruntime.core.statistics import means, of, scatter
from ffruntime.early_exit import margins
from ffruntime.embedding import class_input
from ffruntime.model import Model
from ffruntime.session import Session
from ffruntime.typical import readout_features

D = 16
NAMES = ("unit2", EXIT)


def features(model: Model, images: np.ndarray) -> list[np.ndarray]:
    """What the readout of each scored unit reads, by the unit graphs."""
    network = model.manifest.network
    x, found = class_input(network, model.bundle.weights(), to_unit_interval(images)), []
    for index, unit in enumerate(network.units):
        outputs = model.graph(f"unit{index + 1}")({"input": x})
        x = outputs["output"]
        if unit.scored:
            assert unit.readout
            found.append(readout_features(outputs["activation"], unit.readout))
    return found


@pytest.fixture(scope="module")
def typical(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed bundle with what tells how typical an image is to each of its units, of its exemplars."""
    path = with_statistics(CLASS_BUNDLE, tmp_path_factory.mktemp("typical") / "model.ff")
    model = Model(path, session=Session(threads=1), state=False)
    exemplars, shown = model.bundle.exemplars(), drawn(120, 7)[0]
    tensors, units = {}, {}
    both = (features(model, images) for images in (exemplars.pixels, shown))
    for name, known, held_back in zip(NAMES, *both, strict=True):
        x = project(known, D, 0)
        told = of(x, exemplars.labels, 6)
        factor = np.linalg.inv(np.linalg.cholesky(scatter(told) / len(x) + 10 * np.eye(D))).astype(np.float32)
        tensors |= {f"{name}.factor": factor, f"{name}.centres": (means(told) @ factor.T).astype(np.float32)}
        far = np.sort(nearest(project(held_back, D, 0), factor, tensors[f"{name}.centres"]))[::-1]
        at = (np.array(SHARES) * len(far)).astype(int).clip(max=len(far) - 1)
        units[name] = OfUnit(float(far[0]), tuple(far[at].tolist()), dimension=D, seed=0)
    of_scores = OfScores(1.0, 0.1, 0.1, (0.0,) * len(SHARES), SHARES)
    calibration = Calibration(120, SHARES, dict.fromkeys(NAMES, of_scores), units=units)
    asked = {"images": to_unit_interval(shown), "labels": np.arange(6)}
    half = float(np.median(margins(model.graph("goodness")(asked)["goodness"][:, :, 1])))
    changes = {"calibration": calibration, "exit": EarlyExit((half,), 0.5, 1.0)}
    write_bundle(path, structs.replace(model.manifest, **changes), {TYPICALITY: save(tensors)})
    return path


@pytest.fixture
def model(typical: Path) -> Model:
    return Model(typical, session=Session(threads=1), state=False)


def test_features_are_those_of_the_whole_pass(model: Model) -> None:
    """Averages over cells that are alike, and over cells that are not."""
    images = drawn(8)[0]
    whole = model.graph("goodness")({"images": to_unit_interval(images), "labels": np.arange(6)})["features"]
    np.testing.assert_allclose(np.concatenate(features(model, images), axis=1), whole, rtol=1e-4, atol=1e-5)
    assert (*lone_units(model.manifest.network), EXIT) == NAMES


def test_an_answer_after_any_unit_says_how_typical_its_image_is(model: Model) -> None:
    """What is strange is not sure, however probable its answer; and a call at a time or all at once is the same."""
    images = drawn(60)[0]
    noise = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    known, strange = (model.classify_batch(some, "exit", unsure=0.05) for some in (images, noise))
    assert len({answer.passes for answer in known}) == 2
    assert all(answer.typicality is not None for answer in (*known, *strange))
    assert np.mean([answer.sure is True for answer in known]) > 0.8
    assert np.mean([answer.sure is False for answer in strange]) > 0.95
    for one, answer in zip(images[:5], known, strict=False):
        alone = model.classify(one, "exit", unsure=0.05)
        assert alone.typicality == pytest.approx(answer.typicality, abs=1e-4)
        assert alone.sure == answer.sure


def test_nothing_tells_of_other_units_or_of_a_class_that_came_later(model: Model) -> None:
    """Its images look to a unit as nothing that the bundle knows."""
    images, weights = drawn(12)[0], model.bundle.weights()
    other = {"unit1.conv1.bias": weights["unit1.conv1.bias"] + np.float32(0.01)}
    learned = model.with_weights(Weights(other, model.classes))
    assert {answer.typicality for answer in learned.classify_batch(images, "exit")} == {None}
    rows = {name: tensor.copy() for name, tensor in weights.items() if "readout" in name or name == KNOWN}
    rows[KNOWN][6] = 1
    for name in rows:
        if name.endswith("readout.bias"):
            rows[name][6] = 100
    later = model.with_weights(Weights(rows, (*model.classes, "later")))
    answers = later.classify_batch(images, "exit")
    assert {(answer.label, answer.typicality) for answer in answers} == {("later", None)}
    assert all(answer.sure is not None for answer in answers)


def test_a_file_that_does_not_fit_is_refused(typical: Path, model: Model) -> None:
    bundle = Bundle(typical)
    tensors = bundle.tensors(TYPICALITY)
    for broken in ({"unit2.factor": np.eye(3, dtype=np.float32)}, {"exit.centres": np.empty((0, D), np.float32)}):
        write_bundle(typical, bundle.manifest, {TYPICALITY: save({**tensors, **broken})})
        again = Model(typical, session=Session(threads=1), state=False)
        with pytest.raises(BundleError, match="are missing, or of another size"):
            again.classify(drawn(1)[0][0], "exit")
    write_bundle(typical, bundle.manifest, {TYPICALITY: save(tensors)})
    known = model.manifest.calibration
    assert known
    with pytest.raises(BundleError, match="shares its rate with distances"):
        check(structs.replace(known, units={"unit2": known.units["unit2"]}))
