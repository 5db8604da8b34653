"""A network in C on a Cortex-M4F and an M7 that QEMU emulates: what it answers and learns, and what it takes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from chip import CLASSES, OWN, Chip, needs_compiler
from counting import halves, same, with_statistics
from linked import MAP, MORE, code_bytes

from ffexport.c.arena import STACK_BYTES
from ffexport.c.footprint import CODE_BYTES, INT8_CODE_BYTES
from ffexport.c.project import FOLDER, export_c
from ffruntime.core.bundle import Bundle
from ffruntime.core.layers import KNOWN
from ffruntime.core.state import read_state

TOOLS = ("make", "arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
REMEDY = "apt-get install make gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm"
pytestmark = [
    pytest.mark.slow,
    needs_compiler,
    pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)} here: {REMEDY}"),
]
SPARE = 6  # the label of a class that the network never saw
SECONDS = 120


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle(CLASSES)


def stripes(seed: int) -> np.ndarray:
    """A picture of a class that the fixture does not know, uint8 (1, 16, 16): diagonal stripes on noise."""
    rng = np.random.default_rng(seed)
    on = np.add.outer(np.arange(16), np.arange(16) + rng.integers(6)) % 6 < 2
    return (on[None] * 200 + rng.integers(0, 50, (1, 16, 16))).astype(np.uint8)


def lesson(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """Twenty pictures of the new class, each after two of others: images and labels."""
    examples = bundle.exemplars()
    images = [one for n in range(20) for one in (examples.pixels[2 * n], examples.pixels[2 * n + 1], stripes(n))]
    labels = [one for n in range(20) for one in (examples.labels[2 * n], examples.labels[2 * n + 1], SPARE)]
    return np.stack(images), np.array(labels)


@pytest.mark.parametrize(("core", "more", "tolerance"), [("m4", "", 1e-4), ("m7", "-ffp-contract=off", 1e-5)])
def test_on_a_cortex_m(tmp_path: Path, bundle: Bundle, core: str, more: str, tolerance: float) -> None:
    """In 24 KB of RAM: 100 images are told as on this machine, a class never seen is learned, and the state that
    the chip saves is that of this machine. The deepest stack is within what the planner counts with.

    Without multiplications and additions in one instruction, all but exp is the same to the bit.
    """
    model, program = tmp_path / "model.ff", tmp_path / "model.ff" / FOLDER / "examples" / "qemu"
    shutil.copytree(CLASSES, model)
    export_c(model)
    shown, (images, labels) = np.concatenate([bundle.exemplars().pixels[:90], [stripes(99)] * 10]), lesson(bundle)
    (program / "classify.bin").write_bytes(shown.tobytes())
    rows = [bytes([int(label)]) + image.tobytes() for image, label in zip(images, labels, strict=True)]
    (program / "learn.bin").write_bytes(b"".join(rows))
    told = said(program, "make", "run", f"CORE={core}", f"MORE={more}", "RAM=24K", "FLASH=128K")
    assert told["error"] == 0
    assert 0 < told["golden_error_e9"] < 1e4
    assert max(size for name, size in told.items() if name.endswith("_stack")) <= STACK_BYTES
    with Chip.of(tmp_path / "host", bundle) as chip:
        expected = np.stack([chip.classify(image)[1] for image in shown])
        for n, (image, label) in enumerate(zip(images, labels, strict=True)):
            if n == 2:
                chip.new_class("new")
            chip.learn(image, int(label))
        learned = chip.weights()
        right = sum(chip.classify(stripes(seed))[0] == SPARE for seed in range(100, 120))
    own = np.frombuffer((program / "goodness.bin").read_bytes(), "<f4").reshape(expected.shape)
    assert np.abs(own - expected).max() <= 1e-5 * np.abs(expected).max()
    weights, state = read_state(program / "learned.state", bundle.manifest)
    assert (weights.classes[-1], state.updates) == ("new", 60)
    assert weights.tensors[KNOWN][SPARE] == 1
    before = bundle.weights()
    change = max(float(np.abs(tensor - before[name]).max()) for name, tensor in learned.items() if name != KNOWN)
    for name, tensor in weights.tensors.items():
        assert np.abs(tensor - learned[name]).max() <= tolerance * change, name
    assert right >= 18


@pytest.mark.parametrize("core", ["m4", "m7"])
def test_int8_is_the_same_to_the_bit(tmp_path: Path, bundle: Bundle, core: str) -> None:
    """With the compiler's own choice of instructions: goodness of 100 images is that of this machine."""
    model, program = tmp_path / "model.ff", tmp_path / "model.ff" / FOLDER / "examples" / "qemu"
    shutil.copytree(CLASSES, model)
    export_c(model, "int8", most="readouts")
    shown = bundle.exemplars().pixels[:100]
    (program / "classify.bin").write_bytes(shown.tobytes())
    told = said(program, "make", "run", f"CORE={core}", "MORE=-DFF_CLASSIFY_ONLY", "RAM=12K", "FLASH=96K")
    assert told["error"] == 0
    with Chip.of(tmp_path / "host", bundle, "readouts", "int8") as chip:
        expected = np.stack([chip.classify(image)[1] for image in shown])
    own = np.frombuffer((program / "goodness.bin").read_bytes(), "<f4").reshape(expected.shape)
    np.testing.assert_array_equal(own, expected)


def test_counted_in_closed_form(tmp_path: Path) -> None:
    """A class never seen is told from examples that an M7 counts; what it counts is what this machine counts."""
    model = with_statistics(CLASSES, tmp_path / "model.ff")
    bundle, program = Bundle(model), model / FOLDER / "examples" / "qemu"
    export_c(model)
    shown, labels = np.concatenate([halves(6), bundle.exemplars().pixels[:6]]), [SPARE] * 6
    labels += bundle.exemplars().labels[:6].tolist()
    rows = (bytes([label]) + image.tobytes() for image, label in zip(shown, labels, strict=True))
    (program / "count.bin").write_bytes(b"".join(rows))
    told = said(program, "make", "run", "CORE=m7", "MORE=-ffp-contract=off", "RAM=40K", "FLASH=128K")
    assert told["error"] == 0
    assert 0 < told["counted_instructions"] < told["solve_instructions"]
    weights, _ = read_state(program / "learned.state", bundle.manifest)
    with Chip.of(tmp_path / "host", bundle) as chip:
        assert chip.new_class("new") == ("OK", SPARE)
        for image, label in zip(shown, labels, strict=True):
            assert chip.count(image, label) == "OK"
        (tmp_path / "host.state").write_bytes(chip.save()[1])
    expected, _ = read_state(tmp_path / "host.state", bundle.manifest)
    assert same(weights.statistics, expected.statistics)


def test_power_lost_at_any_write_to_flash(tmp_path: Path) -> None:
    """The core is reset in the middle of 200 operations; after each, what was acknowledged is there, whole."""
    model = tmp_path / "model.ff"
    shutil.copytree(CLASSES, model)
    export_c(model)
    program = model / FOLDER / "examples" / "qemu"
    told = said(program, "make", "run", "PROGRAM=power", "MORE=-DLOSSES=200", "RAM=96K")
    assert told["error"] == 0
    assert told["losses"] == told["older"] + told["newer"] == 200
    assert told["saved"] > 20


def said(folder: Path, *command: str) -> dict[str, int]:
    """What a program under QEMU says: lines of a name and a number."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)
    output = done.stdout + done.stderr
    found = re.findall(r"^(\w+) (\d+)$", output, re.MULTILINE)
    assert found, output
    return {name: int(value) for name, value in found}


def test_code_is_small(tmp_path: Path) -> None:
    """-Os on an M4, without libc: what the footprint counts with."""
    flags = ("-std=c99", "-Os", "-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard")
    for file in OWN:
        if file.suffix == ".c":
            command = ["arm-none-eabi-gcc", *flags, "-c", str(file), "-o", str(tmp_path / f"{file.stem}.o")]
            subprocess.run(command, check=True)
    objects = map(str, sorted(tmp_path.glob("*.o")))
    sizes = subprocess.run(["arm-none-eabi-size", *objects], capture_output=True, text=True, check=True).stdout
    text = {Path(line.split()[5]).stem: int(line.split()[0]) for line in sizes.splitlines()[1:]}
    assert 0 < text.pop("ffint8") <= INT8_CODE_BYTES
    assert 0 < text.pop("ff_replay") + text.pop("ff_replay_flash") <= 3 << 10  # off, unless a program calls them
    assert 0 < sum(text.values()) <= CODE_BYTES


def test_code_to_classify_and_to_learn_is_small(tmp_path: Path) -> None:
    """What a program has in it that classifies, and one that learns, counts, saves and loads, with what of libc."""
    model = with_statistics(CLASSES, tmp_path / "model.ff")
    export_c(model)
    program = model / FOLDER / "examples" / "qemu"
    for more, limit in (("-DFF_CLASSIFY_ONLY", 8 * 1024), ("", 16 * 1024)):
        command = ["make", "-B", f"MORE={MORE} {more}"]
        subprocess.run(command, cwd=program, capture_output=True, check=True)
        own, libc = code_bytes((program / MAP).read_text())
        assert 0 < libc < own < own + libc <= limit


def test_what_does_not_fit_is_not_linked(tmp_path: Path) -> None:
    """The linker script holds a program to the RAM that a chip has."""
    model = tmp_path / "model.ff"
    shutil.copytree(CLASSES, model)
    export_c(model)
    command = ["make", "RAM=16K"]
    done = subprocess.run(
        command, cwd=model / FOLDER / "examples" / "qemu", capture_output=True, text=True, check=False
    )
    assert done.returncode
    assert "RAM: more than the chip has" in done.stderr
