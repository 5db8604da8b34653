"""A network in C: what it answers and learns is what PyTorch and ffruntime make of the same description."""

from __future__ import annotations

import functools
import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from chip import CLASSES, INCLUDE, OWN, STRICT, Chip, compile_c, manifest_of, needs_compiler
from drawn import KNOWN_ROWS, ROWS, drawn_weights, networks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ffruntime import Model, Session
from ffruntime.core.architecture import (
    Network,
)
from ffruntime.core.bundle import Bundle
from ffruntime.core.data import to_unit_interval
from ffruntime.core.layers import KNOWN, TOTAL
from ffruntime.core.learning import ClassLoss
from ffruntime.learning import step
from fftrain import network as net
from fftrain.class_step import class_gradient

pytestmark = needs_compiler
RATE = 100.0  # so large that weights are gradients, almost
TOLERANCE = 1e-4


# ---------------------------------------- networks that are drawn ----------------------------------------


def reference(
    network: Network, tensors: net.Tensors, image: np.ndarray, label: int, loss: ClassLoss
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Goodness of every row in total, and the gradient of every parameter, in float64 by PyTorch."""
    x = (torch.from_numpy(image[None] / 255.0) - network.image.mean) / network.image.std
    total, gradients = torch.zeros(ROWS, dtype=torch.float64), dict[str, np.ndarray]()
    for index, unit in enumerate(network.units):
        x = net.normalise(network, index, tensors, x, training=False)
        found, y, _ = class_gradient(network, index, tensors, x, torch.tensor([label]), loss)
        gradients |= {name: gradient.numpy() for name, gradient in found.items()}
        if unit.scored:
            total += tensors[TOTAL][index] * net.readout_goodness(network, index, tensors, y)[0]
        x = y
    return total.numpy(), gradients


def assert_close(own: np.ndarray, expected: np.ndarray, scale: float, what: str) -> None:
    assert np.abs(own - expected).max(initial=0) <= TOLERANCE * max(scale, 1e-3), what


@pytest.mark.slow
@settings(
    max_examples=12,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(network=networks(), label=st.integers(0, 2), smoothing=st.sampled_from([0, 0.1]), prototypes=st.booleans())
def test_goodness_and_gradients_whatever_the_network(
    tmp_path: Path, network: Network, label: int, smoothing: float, prototypes: bool
) -> None:
    loss, tensors = ClassLoss(smoothing, prototypes=0.5 if prototypes else 0), drawn_weights(network)
    image = np.random.default_rng(0).integers(0, 256, network.image.shape).astype(np.uint8)
    weights = {name: tensor.numpy() for name, tensor in tensors.items()}
    total, gradients = reference(network, tensors, image, label, loss)
    folder = tmp_path / str(len([*tmp_path.iterdir()]))
    with Chip(folder, manifest_of(network, KNOWN_ROWS, loss), weights) as chip:
        best, goodness = chip.classify(image)
        assert_close(goodness, total, float(np.abs(total).max()), "total")
        assert best == int(np.argmax(goodness[:KNOWN_ROWS]))
        chip.settings(RATE)
        assert chip.learn(image, label) == "OK"
        for name, tensor in chip.weights().items():
            if name != KNOWN:
                unit = [g for other, g in gradients.items() if other.split(".")[0] == name.split(".")[0]]
                scale = max(float(np.abs(g).max(initial=0)) for g in unit)
                assert_close((weights[name] - tensor) / RATE, gradients[name], scale, name)


# ---------------------------------------- the fixture ----------------------------------------


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle(CLASSES)


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-5), ("fp16", 1e-2)])
def test_golden_vectors(tmp_path: Path, bundle: Bundle, precision: str, most: float) -> None:
    with Chip.of(tmp_path, bundle, "readouts", precision) as chip:
        error, worst = chip.golden()
        assert error == "OK"
        assert 0 < worst < most


def test_golden_vectors_are_told_from_others(tmp_path: Path, bundle: Bundle) -> None:
    with Chip.of(tmp_path, bundle) as chip:
        images, labels = (bundle.tensors("golden.safetensors")[name] for name in ("images", "labels"))
        chip.settings(0.1)
        assert chip.learn(images[0], (int(labels[0]) + 1) % 6) == "OK"
        error, worst = chip.golden()
        assert error == "GOLDEN"
        assert worst > 1e-3


def test_no_number_is_no_golden_value(tmp_path: Path, bundle: Bundle) -> None:
    """NaN in the first row is not forgotten over the rows behind it."""
    weights, golden, name = dict(bundle.weights()), bundle.tensors("golden.safetensors"), "unit3.readout.weight"
    rows = weights[name].copy()
    rows[0] = np.where(np.arange(rows.shape[1]) % 2, 1, -1) * np.finfo(np.float32).max  # infinite, both ways
    with Chip(tmp_path, bundle.manifest, weights | {name: rows}, golden) as chip:
        assert np.isnan(chip.classify(golden["images"][0])[1][0])
        assert chip.golden() == ("GOLDEN", np.inf)


def test_answers_are_those_of_ffruntime(tmp_path: Path, bundle: Bundle) -> None:
    """In mode goodness, and in mode exit: the same label after the same unit."""
    model, images = Model(bundle, session=Session(), state=False), bundle.exemplars().pixels[:40]
    with Chip.of(tmp_path, bundle) as chip:
        told = [chip.classify(image) for image in images]
        early = [chip.classify_exit(image) for image in images]
    total = model.scores(images, "goodness")
    np.testing.assert_allclose(np.stack([goodness[:6] for _, goodness in told]), total, atol=1e-4)
    assert [label for label, _ in told] == total.argmax(1).tolist()
    answers = model.classify_batch(images, "exit")
    assert [model.classes[label] for label, _, _ in early] == [answer.label for answer in answers]
    assert len({units for _, units, _ in early}) > 1  # some are sure before the last unit


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_twenty_updates_are_those_of_ffruntime(
    tmp_path: Path, bundle: Bundle, momentum: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image at a time: by gradient graphs in ONNX Runtime and SGD in numpy, and by C."""
    monkeypatch.setattr(step, "sgd", functools.partial(step.sgd, momentum=momentum))
    examples, rate = bundle.exemplars(), 0.02 if momentum else 0.2
    picked = np.random.default_rng(0).integers(0, len(examples), 20)
    weights = {name: tensor.copy() for name, tensor in bundle.weights().items()}
    steps = step.ClassSteps(
        Model(bundle, session=Session(), state=False), weights, step.Settings(lr=rate, optimizer="sgd")
    )
    with Chip.of(tmp_path, bundle) as chip:
        assert chip.begin(chip.arena.momentum_bytes) == "OK"
        chip.settings(rate, momentum)
        for index in picked:
            image, label = examples.pixels[index], examples.labels[index]
            steps.step(to_unit_interval(image[None]), np.array([label]))
            assert chip.learn(image, int(label)) == "OK"
        learned = chip.weights()
    assert_equal_weights(learned, weights, bundle.weights())


def assert_equal_weights(
    learned: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray]
) -> None:
    """What learned, to 1e-4 of the largest weight; and of the largest change, since a weight hardly moves."""
    changes = {name: expected[name] - before[name] for name in learned}
    largest = max(float(np.abs(change).max()) for change in changes.values())
    assert largest > 0.01
    for name, tensor in learned.items():
        scale = min(float(np.abs(expected[name]).max()), 10 * largest)
        assert np.abs(tensor - expected[name]).max() <= TOLERANCE * scale, name


@pytest.mark.parametrize("part", ["last", "readouts"])
def test_a_part_that_learns_learns_the_same(tmp_path: Path, bundle: Bundle, part: str) -> None:
    """And of the whole network nothing else changes."""
    example, found = bundle.exemplars(), {}
    for own in ("all", part):
        with Chip.of(tmp_path / own, bundle, own) as chip:
            chip.settings(0.1)
            chip.learn(example.pixels[0], int(example.labels[0]))
            found[own] = chip.weights()
    assert found[part].keys() < found["all"].keys()
    for name, tensor in found[part].items():
        np.testing.assert_array_equal(tensor, found["all"][name], err_msg=name)


def test_learning_helps(tmp_path: Path, bundle: Bundle) -> None:
    """An image that is told wrongly on purpose is answered so after some steps."""
    image = bundle.exemplars().pixels[0]
    with Chip.of(tmp_path, bundle) as chip:
        right, _ = chip.classify(image)
        for _ in range(40):
            chip.learn(image, (right + 1) % 6)
        assert chip.classify(image)[0] == (right + 1) % 6


# ---------------------------------------- sources and errors ----------------------------------------


@pytest.mark.parametrize(
    "compiler", ["gcc", *(pytest.param(name, marks=pytest.mark.slow) for name in ("clang", "arm-none-eabi-gcc"))]
)
def test_sources_compile_without_a_warning(tmp_path: Path, compiler: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} here")
    for file in OWN:
        if file.suffix == ".c":
            compile_c([*STRICT, "-Os", f"-I{INCLUDE}", "-c", str(file), "-o", str(tmp_path / "o")], compiler)


def test_of_libc_only_a_little() -> None:
    """No heap, no stdio: what is included."""
    for file in OWN:
        included = {line.split()[1] for line in file.read_text().splitlines() if line.startswith("#include")}
        allowed = {"<math.h>", "<string.h>", "<stdint.h>", "<stddef.h>", "<arm_acle.h>"}  # the last: the compiler's
        assert {name for name in included if name.startswith("<")} <= allowed, file.name


def test_errors_of_init_learn_and_new_class(tmp_path: Path, bundle: Bundle) -> None:
    image, names = bundle.exemplars().pixels[0], bundle.manifest.classes
    with Chip.of(tmp_path, bundle) as chip:
        assert chip.begin(chip.arena.learn_bytes, version=0) == "MODEL"
        assert chip.begin(chip.arena.classify_bytes - 4) == "ARENA"
        assert chip.begin(chip.arena.learn_bytes, shift=1) == "ARENA"
        assert chip.begin(chip.arena.classify_bytes) == "OK"  # classifies, and the sanitizers see it keep to that
        assert 0 <= chip.classify(image)[0] < 6
        assert chip.learn(image, 0) == "ARENA"
        assert chip.new_class("star")[0] == "ARENA"
        assert chip.save() == ("ARENA", b"")
        assert chip.begin(chip.arena.learn_bytes) == "OK"
        assert [chip.learn(image, label) for label in (-1, 6)] == ["LABEL", "LABEL"]
        chip.settings(0.01, momentum=0.9)
        assert chip.learn(image, 0) == "ARENA"
        chip.settings(0.01)
        bad = ("", names[0], "x" * 64, "line\nend", "\u202e", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xe2\x82")
        assert [chip.new_class(name)[0] for name in bad] == ["NAME"] * len(bad)
        assert [chip.new_class(name) for name in ("x" * 63, "Stern ★")] == [("OK", 6), ("OK", 7)]
        assert chip.new_class("Stern ★")[0] == "NAME"
        assert chip.new_class("one more")[0] == "ROWS"
        assert chip.learn(image, 7) == "OK"
        assert chip.told() == (1, 1, [*names, "x" * 63, "Stern ★"])


def test_a_weight_that_is_no_number_is_not_saved(tmp_path: Path, bundle: Bundle) -> None:
    image = bundle.exemplars().pixels[0]
    with Chip.of(tmp_path, bundle) as chip:
        chip.settings(math.inf)
        chip.learn(image, 0)
        assert chip.save() == ("DIVERGED", b"")
