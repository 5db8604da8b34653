"""The examples for Arduino and Zephyr compile, with every C file of the project, and do what they say, against
stand-ins of what they call there (`tests/support/stand_ins`): no core and no SDK is at hand."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from chip import CLASSES, COMPILER, ERRORS, STRICT, needs_compiler

from ffexport.c.project import FOLDER, export_c
from ffruntime.core.bundle import Bundle

STAND_INS = Path(__file__).parents[1] / "support" / "stand_ins"
M4 = ("-Os", "-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard")
CXX = shutil.which("g++") or shutil.which("clang++") or ""
CROSS = shutil.which("arm-none-eabi-g++") or ""
pytestmark = [pytest.mark.slow, needs_compiler, pytest.mark.skipif(not CXX, reason="no C++ compiler: g++, clang++")]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = Path(shutil.copytree(CLASSES, tmp_path_factory.mktemp("examples") / "model.ff"))
    export_c(model)
    return model / FOLDER


@pytest.fixture(scope="module")
def own(project: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Every C file of the project, compiled for this machine; `test_c_network.py` compiles them for a Cortex-M4."""
    return objects(sorted(project.glob("*.c")), tmp_path_factory.mktemp("own"), str(COMPILER))


def run(*command: object, given: bytes = b"") -> str:
    done = subprocess.run(list(map(str, command)), input=given, capture_output=True, check=False)
    assert not done.returncode, done.stderr.decode()
    return done.stdout.decode()


def objects(sources: list[Path], to: Path, compiler: str, *flags: object) -> list[Path]:
    """Compile C files."""
    made = [to / f"{source.stem}.o" for source in sources]
    for source, target in zip(sources, made, strict=True):
        run(compiler, *STRICT, *flags, "-c", source, "-o", target)
    return made


def test_the_arduino_sketch(project: Path, own: list[Path], tmp_path: Path) -> None:
    """It tells an image, learns it as another class, and tells that."""
    sketch = project / "examples" / "arduino" / "ffedge" / "ffedge.ino"
    words = ["-Wall", "-Wextra", "-Werror", f"-I{project}", f"-I{STAND_INS}", "-include", "Arduino.h", "-x", "c++"]
    if CROSS:
        run(CROSS, *words, *M4, "-c", sketch, "-o", tmp_path / "sketch.o")
    run(CXX, *words, sketch, STAND_INS / "arduino.cpp", "-x", "none", *own, "-lm", "-o", tmp_path / "board")
    image = Bundle(CLASSES).exemplars().pixels[0].tobytes()
    lesson = b"?" + image + (b"!" + bytes([3]) + image) * 200 + b"?" + image + b"!" + bytes([9]) + image
    ready, first, *learned, told, refused = run(tmp_path / "board", given=lesson).splitlines()
    classes = Bundle(CLASSES).manifest.classes
    assert (ready, set(learned), refused) == ("ready", {"learned"}, "refused")
    assert first in classes
    assert told == classes[3]


def test_the_zephyr_application(project: Path, own: list[Path], tmp_path: Path) -> None:
    """Flash is empty, then holds what was saved."""
    example = project / "examples" / "zephyr"
    named = re.findall(r"\{OWN\}/(\w+\.c)", (example / "module" / "zephyr" / "CMakeLists.txt").read_text())
    assert sorted(named) == sorted(path.name for path in project.glob("*.c"))
    main, words = [example / "src" / "main.c"], (f"-I{project}", f"-I{STAND_INS}")
    if CROSS:
        objects(main, tmp_path, CROSS.replace("g++", "gcc"), *words, *M4)
    made = objects(main, tmp_path, str(COMPILER), *words, "-Dmain=app_main")
    run(str(COMPILER), *words, STAND_INS / "zephyr.c", *own, *made, "-lm", "-o", tmp_path / "board")
    said = re.findall(r": (\d+)$", run(tmp_path / "board"), re.MULTILINE)
    assert [ERRORS[int(number)] for number in said] == ["EMPTY", "OK", "OK", "OK"]
