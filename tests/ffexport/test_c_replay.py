"""The reservoir of images that a chip learns again: as many of every class, each image as likely as another."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chip import CLASSES, COMPILER, INCLUDE, Chip, needs_compiler

from ffexport.c.arena import plan_arena
from ffexport.c.tables import header
from ffruntime.core.bundle import Bundle

pytestmark = needs_compiler
ROOM = 12


@pytest.fixture
def chip(tmp_path: Path) -> Iterator[Chip]:
    with Chip.of(tmp_path / "chip", Bundle(CLASSES), "readouts") as chip:
        chip.new_replay(ROOM)
        yield chip


def offered(chip: Chip, labels: list[int]) -> tuple[Counter[int], list[int]]:
    """How many of each label are stored after images of these were offered, and which, by place in the list."""
    stored, places = list[int](), list[int]()
    for place, label in enumerate(labels):
        error, stored, places = chip.learn_replayed(np.full((1, 16, 16), place, np.uint8), label, -1)
        assert error == "OK"
    return Counter(stored), places


def test_every_class_has_as_many(chip: Chip) -> None:
    """Whatever comes first, and however much of it; of a class with fewer all stay."""
    assert offered(chip, [0] * 5)[0] == {0: 5}
    assert offered(chip, [0] * 50)[0] == {0: ROOM}
    assert offered(chip, [1] * 3)[0] == {0: 9, 1: 3}
    found = offered(chip, [0, 2] * 40)[0]
    assert found[1] == 3
    assert {found[0], found[2]} == {4, 5}


@pytest.mark.slow
def test_an_image_is_as_likely_to_stay_as_another(chip: Chip) -> None:
    """Of 36 of a class in a reservoir of 12 a third of the first 12 stay, as of the last."""
    stayed = list[int]()
    for _ in range(40):
        chip.new_replay(ROOM)
        stayed += offered(chip, [3] * 36)[1]
    assert len(stayed) == 40 * ROOM
    for first in (0, 12, 24):
        assert 115 < sum(first <= place < first + 12 for place in stayed) < 205  # 160, and four deviations


@pytest.mark.slow
def test_what_is_stored_is_learned_again(tmp_path: Path) -> None:
    """A step and two that are replayed are three updates; without room there is no replay."""
    bundle = Bundle(CLASSES)
    examples = bundle.exemplars()
    with Chip.of(tmp_path, bundle, "readouts") as chip:
        for room, updates in ((0, 2), (ROOM, 4)):
            assert chip.begin(chip.arena.learn_bytes) == "OK"
            chip.new_replay(room)
            for n in range(2):
                error, stored, _ = chip.learn_replayed(examples.pixels[n], int(examples.labels[n]), 2)
                assert error == "OK"
            assert chip.told()[0] == updates
            assert stored == [int(label) for label in examples.labels[: min(room, 2)]]
        assert chip.learn_replayed(examples.pixels[0], 6, 2)[:2] == ("LABEL", stored)


@pytest.mark.slow
def test_its_bytes_are_counted_with_the_chips_ram(tmp_path: Path) -> None:
    """A buffer that does not fit does not compile."""
    manifest = Bundle(CLASSES).manifest
    arena = plan_arena(manifest, "readouts", "fp32")
    (tmp_path / "model.h").write_text(header(manifest, arena, arena.learn_bytes + 2048 + 10_000))
    (tmp_path / "some.c").write_text('#include "model.h"\n')
    for images, fits in ((0, True), (38, True), (39, False)):
        command = [str(COMPILER), f"-I{INCLUDE}", f"-DFF_REPLAY_IMAGES={images}", "-fsyntax-only", "some.c"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
        assert (done.returncode == 0) == fits
