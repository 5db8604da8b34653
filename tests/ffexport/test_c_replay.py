"""The reservoir of images that a chip learns again: as many of every class, each image as likely as another;
in flash whole whatever write power is lost at."""

from __future__ import annotations

import os
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
LOSSES = int(os.environ.get("FF_FUZZ", "200"))
FLASH = [(1024, 4), (4096, 256), (1024, 1), (2048, 16)]  # bytes that are erased and programmed at a time


@pytest.fixture(scope="module")
def one_chip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chip]:
    with Chip.of(tmp_path_factory.mktemp("replay") / "chip", Bundle(CLASSES), "readouts") as chip:
        yield chip


@pytest.fixture
def chip(one_chip: Chip) -> Chip:
    assert one_chip.begin(one_chip.arena.learn_bytes) == "OK"
    one_chip.new_replay(ROOM)
    return one_chip


def picture(number: int) -> np.ndarray:
    """An image that says which it is, and whether it is whole: uint8 (1, 16, 16)."""
    return np.random.default_rng(number).integers(0, 256, (1, 16, 16)).astype(np.uint8)


def offered(chip: Chip, labels: list[int]) -> tuple[Counter[int], list[int]]:
    """How many of each label are stored after images of these were offered, and which, by place in the list."""
    for place, label in enumerate(labels):
        assert chip.offer(np.full((1, 16, 16), place, np.uint8), label) == "OK"
    found, images = chip.stored()
    return Counter(found.tolist()), images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(("sector", "unit"), [(0, 1), (1024, 4)])
def test_every_class_has_as_many(chip: Chip, sector: int, unit: int) -> None:
    """Whatever comes first, and however much of it; of a class with fewer all stay. In RAM and in flash."""
    chip.new_replay(ROOM, 0, sector, unit)
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
@pytest.mark.parametrize("sector", [0, 1024])
def test_what_is_stored_is_learned_again(chip: Chip, sector: int) -> None:
    """A step and two that are replayed are three updates; without room there is no replay."""
    examples = Bundle(CLASSES).exemplars()
    for room, updates in ((0, 2), (ROOM, 4)):
        assert chip.begin(chip.arena.learn_bytes) == "OK"
        chip.new_replay(room, 0, sector, 4)
        for n in range(2):
            assert chip.learn_replayed(examples.pixels[n], int(examples.labels[n]), 2) == "OK"
        assert chip.told()[0] == updates
        labels, images = chip.stored()
        np.testing.assert_array_equal(labels, examples.labels[: min(room, 2)])
        np.testing.assert_array_equal(images, examples.pixels[: min(room, 2)])
    assert chip.learn_replayed(examples.pixels[0], 6, 2) == "LABEL"
    assert len(chip.stored()[0]) == 2


@pytest.mark.slow
def test_a_stored_image_is_learned_moved(chip: Chip) -> None:
    """By up to a pixel each way: of steps each is that of one of nine images, and not always of the same."""

    def after(image: np.ndarray | None) -> bytes:
        assert chip.begin(chip.arena.learn_bytes) == "OK"
        assert (chip.rehearse(1) if image is None else chip.learn(image, 2)) == "OK"
        return b"".join(tensor.tobytes() for tensor in chip.weights().values())

    image, ways = picture(0), range(-1, 2)
    wide = np.pad(image, ((0, 0), (1, 1), (1, 1)))
    moved = {after(wide[:, 1 + y : 17 + y, 1 + x : 17 + x]) for y in ways for x in ways}
    chip.new_replay(ROOM, shift=1)
    assert chip.offer(image, 2) == "OK"
    found = {after(None) for _ in range(30)}
    assert found <= moved
    assert len(found) > 5


def contents(chip: Chip) -> list[tuple[int, bytes]]:
    """What is at each place."""
    labels, images = chip.stored()
    return [(int(label), image.tobytes()) for label, image in zip(labels, images, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize(("sector", "unit"), FLASH)
def test_flash_keeps_the_images(chip: Chip, sector: int, unit: int) -> None:
    """When power comes back, at whatever place of the log, all is as it was."""
    chip.new_replay(ROOM, 0, sector, unit)
    assert chip.replay_begin() == "OK"
    assert contents(chip) == []
    for number in range(150):
        assert chip.offer(picture(number), number // 40 % 6) == "OK"
        before = contents(chip)
        if number % 3 == 0:
            assert chip.replay_begin() == "OK"
            assert contents(chip) == before
    assert len(before) == ROOM
    assert Counter(label for label, _ in before) == {0: 3, 1: 3, 2: 3, 3: 3}


@pytest.mark.slow
@pytest.mark.parametrize(("sector", "unit"), FLASH[:2])
def test_power_lost_at_any_write(chip: Chip, sector: int, unit: int) -> None:
    """At random operations, and in the middle of them: every place holds what it held, or the new image."""
    rng = np.random.default_rng(0)
    chip.new_replay(ROOM, 0, sector, unit)
    before, outcomes = contents(chip), Counter[str]()
    longest = sector // unit + 2  # of a sector that is copied, the mark, and the erasing
    for number in range(LOSSES):
        image, label = picture(number), int(rng.integers(6))
        often = longest if number % 2 else longest // 8
        done = chip.offer(image, label, int(rng.integers(often)), int(rng.integers(unit + 1)))
        told = contents(chip)
        assert chip.replay_begin() == "OK"
        found = contents(chip)
        assert done == "IO" or found == told
        changed = [place for place, one in enumerate(found) if before[place : place + 1] != [one]]
        assert len(before) <= len(found) <= ROOM
        assert len(changed) <= 1
        assert all(found[place] == (label, image.tobytes()) for place in changed)
        outcomes[f"{done}, {len(changed)} changed"] += 1
        before = found
    assert outcomes["OK, 1 changed"] > LOSSES / 10
    assert outcomes["IO, 0 changed"] > LOSSES / 10


@pytest.mark.slow
def test_hostile_flash(chip: Chip) -> None:
    """Bytes changed at random: what is there was stored once, with its own label; the sanitizers watch."""
    rng, were = np.random.default_rng(0), set[tuple[int, bytes]]()
    sectors = chip.new_replay(ROOM, 0, 1024, 4)
    for number in range(LOSSES):
        label = int(rng.integers(6))
        were.add((label, picture(number).tobytes()))
        assert chip.offer(picture(number), label) == "OK"
        for _ in range(int(rng.integers(8))):
            near = 1024 * int(rng.integers(1, sectors + 1)) + int(rng.integers(40 if rng.integers(2) else 1000))
            chip.scribble(near, rng.integers(0, 256, int(rng.integers(1, 8))).astype(np.uint8).tobytes())
        assert chip.replay_begin() == "OK"
        assert {one for one in contents(chip) if one[0] != 255} <= were
        assert chip.rehearse(2) == "OK"
    for number in range(LOSSES, LOSSES + 6 * ROOM):  # and it is whole again
        assert chip.offer(picture(number), number % 6) == "OK"
    assert sorted(chip.stored()[0].tolist()) == [label for label in range(6) for _ in range(2)]


@pytest.mark.slow
def test_its_bytes_are_counted_with_the_chips_ram(tmp_path: Path) -> None:
    """A buffer that does not fit does not compile; in flash it leaves 3 bytes an image and two images in RAM."""
    manifest = Bundle(CLASSES).manifest
    arena = plan_arena(manifest, "readouts", "fp32")
    (tmp_path / "model.h").write_text(header(manifest, arena, arena.learn_bytes + 2048 + 10_000))
    (tmp_path / "some.c").write_text('#include "model.h"\n')
    for images, more, fits in (
        (0, "", True),
        (37, "", True),
        (38, "", False),
        (3150, "-DFF_REPLAY_IN_FLASH", True),
        (3160, "-DFF_REPLAY_IN_FLASH", False),
    ):
        flags = [f"-I{INCLUDE}", f"-DFF_REPLAY_IMAGES={images}", *more.split(), "-fsyntax-only", "some.c"]
        done = subprocess.run([str(COMPILER), *flags], cwd=tmp_path, capture_output=True, check=False)
        assert (done.returncode == 0) == fits, (images, more)
