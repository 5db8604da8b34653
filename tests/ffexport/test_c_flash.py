"""What was learned, in flash: whatever write power is lost at, the older or the newer version is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from chip import CLASSES, Chip, needs_compiler

from ffruntime.core.bundle import Bundle

pytestmark = [pytest.mark.slow, needs_compiler]
LOSSES = int(os.environ.get("FF_FUZZ", "200"))


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle(CLASSES)


@pytest.fixture
def chip(tmp_path: Path, bundle: Bundle) -> Iterator[Chip]:
    with Chip.of(tmp_path / "chip", bundle, "readouts") as chip:
        chip.settings(0.1)
        yield chip


def equal(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return all(np.array_equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize(("sector", "unit"), [(4096, 4), (4096, 256), (1024, 1), (2048, 16)])
def test_flash_keeps_what_was_saved(bundle: Bundle, chip: Chip, sector: int, unit: int) -> None:
    """Of each version the newest, whichever slot it is in."""
    examples = bundle.exemplars()
    assert chip.new_flash(sector, unit) % sector == 0
    assert chip.flash_load() == "EMPTY"
    for index in range(3):
        chip.learn(examples.pixels[index], int(examples.labels[index]))
        assert chip.flash_save() == "OK"
        saved, told = chip.weights(), chip.told()
        assert chip.begin(chip.arena.learn_bytes) == "OK"
        assert chip.flash_load() == "OK"
        assert equal(chip.weights(), saved)
        assert chip.told() == told


def test_power_lost_at_any_write(bundle: Bundle, chip: Chip) -> None:
    """At operations drawn at random, and in the middle of them: what was acknowledged is there, or what was just
    being written, whole."""
    examples, rng = bundle.exemplars(), np.random.default_rng(0)
    slot = chip.new_flash(1024, 16)
    operations = slot // 1024 + slot // 16
    assert chip.flash_save() == "OK"
    acknowledged, newer, lost = chip.weights(), 0, 0
    for _ in range(LOSSES):
        index = int(rng.integers(len(examples)))
        chip.settings(0.1)
        assert chip.learn(examples.pixels[index], int(examples.labels[index])) == "OK"
        tried = chip.weights()
        done = chip.flash_save(int(rng.integers(operations)), int(rng.integers(17)))
        assert chip.begin(chip.arena.learn_bytes) == "OK"  # power is back
        assert chip.flash_load() == "OK"
        found = chip.weights()
        if equal(found, tried):
            newer += 1
        else:
            assert done == "IO"
            assert equal(found, acknowledged)
            lost += 1
        acknowledged = found
    assert newer > LOSSES / 50
    assert lost > LOSSES / 4


def test_hostile_flash(bundle: Bundle, chip: Chip) -> None:
    """Bytes changed at random: the older version, none at all, or an error; the sanitizers watch."""
    rng, found = np.random.default_rng(0), set[str]()
    slot = chip.new_flash(1024, 4)
    for _ in range(LOSSES):
        if rng.integers(4) == 0:
            assert chip.flash_save() == "OK"
        at = int(rng.integers(2)) * slot + int(rng.integers(24 if rng.integers(2) else slot - 8))
        chip.scribble(at, rng.integers(0, 256, int(rng.integers(1, 8))).astype(np.uint8).tobytes())
        found.add(chip.flash_load())
    assert found == {"OK", "EMPTY"}
    image = bundle.exemplars().pixels[0]
    assert 0 <= chip.classify(image)[0] < 6
