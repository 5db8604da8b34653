"""Units in int8 in C: to the bit what numpy's integers make of the same tables, and close to float32."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import int8_reference as reference
import numpy as np
import pytest
from chip import CLASSES, Chip, manifest_of, needs_compiler
from commands import in_process_text
from drawn import KNOWN_ROWS, drawn_weights, networks
from hypothesis import HealthCheck, given, settings
from msgspec import structs

from ffexport.c import forward
from ffexport.c.arena import PARTS, Part
from ffexport.c.footprint import INT8_CODE_BYTES, choose, footprint, footprint_text
from ffexport.c.int8 import fixed_point, why_not_int8
from ffexport.c.sweeps import sweeps
from ffruntime.core.architecture import Conv, Network, Relu
from ffruntime.core.bundle import Bundle
from ffruntime.core.data import Examples
from ffruntime.core.devices import load_microcontroller
from ffruntime.core.errors import BackendError
from ffruntime.core.layers import TOTAL
from ffruntime.core.learning import ClassLoss
from ffruntime.core.state import read_state

pytestmark = needs_compiler


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle(CLASSES)


def expected_goodness(
    network: Network, weights: dict[str, np.ndarray], chip: Chip, image: np.ndarray
) -> np.ndarray:
    """In total, of every row: int8 units in integers, those above in float32."""
    assert chip.int8
    outputs, total = reference.outputs(network, chip.int8, image[None]), np.zeros(1, np.float32)
    x = outputs[-1] * np.float32(chip.int8.step) + chip.int8.rest
    for index, unit in enumerate(network.units):
        if index < len(outputs):
            averages = reference.averages(network, chip.int8, index, outputs[index])
        else:
            if index > len(outputs):
                x = forward.folded(network, weights, index, x)
            received = x = forward.divided(network, index, x) if forward.moving(network, index) else x
            for sweep in sweeps(network, index):
                added = received if unit.shortcut and sweep is sweeps(network, index)[-1] else None
                x = forward.forward(sweep, weights, x, added)
            averages = reference.averages_of(network, index, x)
        if unit.scored:
            total = total + weights[TOTAL][index] * reference.goodness(weights, index, averages)
    return total[0]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["readouts", "last"])
@settings(
    max_examples=12,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(network=networks())
def test_goodness_whatever_the_network(tmp_path: Path, part: Part, network: Network) -> None:
    """Shapes, strides, padding, pooling, slopes, shortcuts: to the bit where all is int8."""
    weights = {name: tensor.numpy().astype(np.float32) for name, tensor in drawn_weights(network).items()}
    rng = np.random.default_rng(0)
    examples = Examples(rng.integers(0, 256, (8, *network.image.shape), np.uint8), np.arange(8) % KNOWN_ROWS)
    images = rng.integers(0, 256, (4, *network.image.shape), np.uint8)
    folder, manifest = tmp_path / str(len([*tmp_path.iterdir()])), manifest_of(network, KNOWN_ROWS, ClassLoss())
    with Chip(folder, manifest, weights, None, part, "int8", calibration=examples) as chip:
        assert chip.arena.int8_units == (1 if part == "last" else 2)
        for image in images:
            own, expected = chip.classify(image)[1], expected_goodness(network, weights, chip, image)
            if part == "readouts":
                np.testing.assert_array_equal(own, expected)
            else:
                np.testing.assert_allclose(own, expected, atol=1e-4 * np.abs(expected).max())


def test_to_the_bit(tmp_path: Path, bundle: Bundle) -> None:
    """The fixture, in the memory that classifying needs, and close to the golden vectors."""
    network, weights = bundle.manifest.network, bundle.weights()
    with Chip.of(tmp_path, bundle, "readouts", "int8") as chip:
        error, worst = chip.golden()
        assert error == "OK"
        assert 1e-4 < worst < 0.1
        assert chip.begin(chip.arena.classify_bytes) == "OK"
        for image in bundle.exemplars().pixels[:20]:
            np.testing.assert_array_equal(chip.classify(image)[1], expected_goodness(network, weights, chip, image))


@pytest.mark.slow
@pytest.mark.parametrize("part", ["readouts", "last"])
def test_answers_are_those_of_float32(tmp_path: Path, bundle: Bundle, part: Part) -> None:
    images = bundle.exemplars().pixels
    with (
        Chip.of(tmp_path / "fine", bundle, part) as fine,
        Chip.of(tmp_path / "int8", bundle, part, "int8") as coarse,
    ):
        same = [fine.classify(image)[0] == coarse.classify(image)[0] for image in images]
    assert np.mean(same) >= 0.97


@pytest.mark.slow
def test_what_lies_above_int8_units_learns(tmp_path: Path, bundle: Bundle) -> None:
    """And its state is one of the same network: a chip in float32 takes what the readouts learned."""
    image = bundle.exemplars().pixels[0]
    for part in ("readouts", "last"):
        with Chip.of(tmp_path / part, bundle, part, "int8") as chip:
            wrong = (chip.classify(image)[0] + 1) % 6
            chip.settings(0.05)
            for _ in range(40):
                assert chip.learn(image, wrong) == "OK"
            assert chip.classify(image)[0] == wrong
            (tmp_path / "learned.state").write_bytes(chip.save()[1])
            _, state = read_state(tmp_path / "learned.state", bundle.manifest)
            assert state.updates == 40
        with Chip.of(tmp_path / f"{part} fp32", bundle, part) as other:
            assert other.load((tmp_path / "learned.state").read_bytes()) == "OK"


# ---------------------------------------- numbers ----------------------------------------


def test_fixed_point() -> None:
    factors = np.array([1 - 1e-7, 0.5, 1 / 3, 1e-5, 2.0**-31, 2.0**-33, 1 - 2.0**-40])
    multiplier, shift = fixed_point(factors)
    assert (multiplier >= 0).all()
    assert ((shift <= 0) & (shift >= -30)).all()
    own = multiplier / 2.0**31 * 2.0**shift
    np.testing.assert_allclose(own[:4], factors[:4], rtol=1e-9)
    assert np.abs(own - factors).max() < 1e-8


def test_rounding_is_what_its_description_says() -> None:
    """2^30 / 2^31 is a half: after the product halves go up, after the shift away from 0."""
    values, half = np.array([1, -1, 3, -3]), np.array([1 << 30] * 4)
    assert reference.requantised(values, half, np.zeros(4, int)).tolist() == [1, 0, 2, -1]
    assert reference.requantised(values * 2, half, np.full(4, -1)).tolist() == [1, -1, 2, -2]


# ---------------------------------------- what it takes, and refusals ----------------------------------------


def test_int8_takes_less(bundle: Bundle) -> None:
    fine, coarse = (footprint(bundle.manifest, "readouts", precision) for precision in ("fp32", "int8"))
    assert coarse.arena.classify_bytes < 0.5 * fine.arena.classify_bytes
    assert coarse.weights < fine.weights
    assert coarse.code == fine.code + INT8_CODE_BYTES
    assert [footprint(bundle.manifest, part, "int8").arena.int8_units for part in PARTS] == [0, 2, 3]


def test_in_int8_something_is_int8(bundle: Bundle) -> None:
    """Not all learns, though it would fit."""
    assert choose(bundle.manifest, "int8").part == "last"
    assert choose(bundle.manifest, "int8", most="readouts").part == "readouts"
    assert choose(bundle.manifest, "fp32", most="readouts").part == "readouts"


def test_where_float32_does_not_fit_int8_is_named(bundle: Bundle) -> None:
    network, chip = bundle.manifest.network, load_microcontroller("stm32f746")
    wide = structs.replace(network.units[0], ops=(Conv(64, 3, padding=1), Relu()))
    manifest = structs.replace(bundle.manifest, network=structs.replace(network, units=(wide, *network.units[1:])))
    ram = footprint(manifest, "readouts", "int8").ram // 1024 + 1
    small = structs.replace(chip, ram=structs.replace(chip.ram, usable_kib=ram))
    with pytest.raises(BackendError, match=r"small: does not fit: RAM .* KiB; --precision int8 or --device"):
        choose(manifest, "fp32", small, "small")
    found = choose(manifest, "int8", small, "small")
    assert (found.part, found.fits) == ("readouts", True)
    assert "of units 1 to 3 are int8" in footprint_text(found)


def test_what_int8_cannot_be(bundle: Bundle) -> None:
    network = bundle.manifest.network
    assert why_not_int8(network) is None
    unit = network.units[1]
    wide = structs.replace(unit, ops=(Conv(70_000, 1), Conv(2, 1)))
    assert "unit1.conv2: adds up more" in str(why_not_int8(structs.replace(network, units=(wide,))))


@pytest.mark.slow
def test_on_the_command_line(tmp_path: Path) -> None:
    model = shutil.copytree(CLASSES, tmp_path / "model.ff")
    command = ("--model", model, "--format", "c", "--precision", "int8", "--learns", "readouts", "--json")
    report = json.loads(in_process_text("ffexport", *command).stdout)
    assert report["artefacts"][0]["verdict"] == "ok"
    assert report["artefacts"][0]["precision"] == "int8"
    assert (report["footprint"]["part"], report["footprint"]["arena"]["int8_units"]) == ("readouts", 3)
    assert "struct ff_int8 int8 = " in (model / "c" / "model.c").read_text()
