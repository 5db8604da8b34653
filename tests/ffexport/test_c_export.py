"""`ffexport --format c`: a project in the bundle, what it takes, and what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from chip import CLASSES, needs_compiler
from commands import in_process_text
from msgspec import structs

from ffexport.c import project
from ffexport.c.arena import PARTS, Buffer, _place, _to_classify, _to_learn
from ffexport.c.footprint import CODE_BYTES, footprint
from ffruntime.core.architecture import Conv, Relu, Unit
from ffruntime.core.bundle import Bundle
from ffruntime.core.devices import load_microcontroller, microcontroller_names
from ffruntime.core.layers import tensors

SHAPES = CLASSES.parent / "shapes.ff"
SMALL = """
title = "Small"
[ram]
total_kib = 32
usable_kib = {ram}
source = "a test"
[flash]
total_kib = 256
usable_kib = {flash}
sector_bytes = 1024
program_bytes = 4
source = "a test"
[core]
name = "none"
source = "a test"
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CLASSES, tmp_path / "model.ff"))


def ffexport(*arguments: object) -> subprocess.CompletedProcess[str]:
    return in_process_text("ffexport", *arguments, env={"FF_DATA": "/nonexistent"})


def small(folder: Path, ram: int, flash: int) -> Path:
    path = folder / "small.toml"
    path.write_text(SMALL.format(ram=ram, flash=flash))
    return path


@pytest.mark.slow
def test_a_project_is_added_to_the_bundle(model: Path) -> None:
    done = ffexport("--model", model, "--format", "c")
    assert done.returncode == 0, done.stderr
    assert "all that was trained learns" in done.stdout
    files = Bundle(model).manifest.files
    assert {"c/model.h", "c/model.c", "c/ffedge.h", "c/ffedge.c", "c/examples/qemu/memory.ld"} <= files.keys()
    assert files.keys() > Bundle(CLASSES).manifest.files.keys()
    assert ffexport("--model", model, "--format", "c").stdout == done.stdout  # again: the same
    assert Bundle(model).manifest.files == files


@pytest.mark.slow
@needs_compiler
def test_the_project_is_proven_here(model: Path) -> None:
    report = json.loads(ffexport("--model", model, "--format", "c", "--json").stdout)
    (row,) = report["artefacts"]
    assert row["verdict"] == "ok"
    assert 0 < row["parity"] < 1e-5
    assert report["footprint"]["part"] == "all"


def test_without_a_compiler_the_table_says_so(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ffexport.c.proof.shutil.which", lambda _name: None)
    done = ffexport("--model", model, "--format", "c")
    assert done.returncode == 0
    assert project.UNPROVEN in done.stdout


@pytest.mark.slow
@needs_compiler
def test_what_computes_something_else_is_not_added(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ffexport.c.project.source", lambda *given: _wrong(*given))
    done = ffexport("--model", model, "--format", "c")
    assert done.returncode == 7
    assert "golden vectors are not reproduced" in done.stderr
    assert Bundle(model).manifest.files == Bundle(CLASSES).manifest.files


def _wrong(*given: object) -> str:
    from ffexport.c.tables import source

    return source(*given).replace(".image_std = 0.", ".image_std = 1.")  # type: ignore[arg-type]


@pytest.mark.slow
def test_as_much_learns_as_fits(model: Path, tmp_path: Path) -> None:
    """Of the RAM of three chips, all of it, the last unit and all readouts, or the readouts learn."""
    for ram, words in ((20, "all that was trained"), (16, "the last unit and all readouts"), (13, "the readouts")):
        done = ffexport("--model", model, "--format", "c", "--device", small(tmp_path, ram, 200))
        assert done.returncode == 0, done.stderr
        assert f"{words} learn" in done.stdout
        assert f"#define FF_RAM_BYTES {ram * 1024} " in (model / "c" / "model.h").read_text()


def test_what_does_not_fit_is_refused_with_numbers(model: Path, tmp_path: Path) -> None:
    done = ffexport("--model", model, "--format", "c", "--device", small(tmp_path, 8, 32))
    assert done.returncode == 6
    assert done.stderr.count("\n") == 1
    for word in ("small: does not fit: RAM 12.2 KiB", "of 8.0 KiB", "flash ", "of 32.0 KiB", "esp32-s3 would fit"):
        assert word in done.stderr
    assert Bundle(model).manifest.files == Bundle(CLASSES).manifest.files


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--model", SHAPES), 6, ("takes class goodness", "has the label in its input")),
        (("--model", CLASSES, "--device", "stm32f764"), 2, ("did you mean 'stm32f746'",)),
        (("--model", CLASSES, "--device", "raspberry-pi-5"), 2, ("unknown microcontroller",)),
        (("--model", CLASSES, "--learns", "lats"), 2, ("did you mean 'last'",)),
        (("--model", CLASSES, "--format", "onnx"), 2, ("--format c goes by itself",)),
        (("--model", CLASSES, "--state", "some.state"), 2, ("--format c goes by itself",)),
    ],
)
def test_refusals(arguments: tuple[object, ...], code: int, words: tuple[str, ...]) -> None:
    done = ffexport("--format", "c", *arguments)
    assert done.returncode == code
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words), done.stderr


def test_other_formats_name_a_microcontroller(model: Path) -> None:
    done = ffexport("--model", model, "--device", "stm32f746")
    assert done.returncode == 2
    assert "ffexport --format c --device stm32f746" in done.stderr


# ---------------------------------------- the planner ----------------------------------------


def test_buffers_in_use_at_a_time_do_not_overlap() -> None:
    buffers = [Buffer(f"b{n}", 4 * (1 + n * 7 % 5), n % 4, n % 4 + n % 3) for n in range(20)]
    places: dict[str, int] = {}
    end = _place(places, buffers, 8)
    for one in buffers:
        assert 8 <= places[one.name] <= end - one.size
        for other in buffers:
            if one is not other and one.first <= other.last and other.first <= one.last:
                apart = places[one.name] + one.size <= places[other.name]
                assert apart or places[other.name] + other.size <= places[one.name]
    busiest = max(sum(b.size for b in buffers if b.first <= n <= b.last) for n in range(6))
    assert end - 8 <= 1.5 * busiest


def test_learning_memory_does_not_grow_with_depth() -> None:
    """Of a step beside the weights, units being alike: 12 units over 3."""
    network = Bundle(CLASSES).manifest.network

    def step_bytes(depth: int) -> int:
        below, readout = network.units[0].inputs, network.units[0].readout
        units = (Unit((Conv(6, 3, padding=1), Relu()), below, readout=readout) for _ in range(depth))
        deep = structs.replace(network, units=tuple(units))
        own, places = {tensor.name for tensor in tensors(deep)}, dict[str, int]()
        passing = _to_classify(deep, 0)
        _place(places, passing, 0)
        return _place(places, _to_learn(deep, own), 0, passing)

    assert step_bytes(12) <= 1.05 * step_bytes(3)


@pytest.mark.parametrize("name", microcontroller_names())
def test_profiles(name: str) -> None:
    chip = load_microcontroller(name)
    assert chip.ram.usable_kib <= chip.ram.total_kib
    assert chip.flash.usable_kib <= chip.flash.total_kib
    assert footprint(Bundle(CLASSES).manifest, PARTS[0], "fp32", chip).fits


def test_the_sum_is_what_the_text_says() -> None:
    found = footprint(Bundle(CLASSES).manifest, "all", "fp32")
    assert found.ram == found.arena.learn_bytes + 2048
    assert found.flash == CODE_BYTES + found.weights + found.slots
