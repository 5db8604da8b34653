"""`ffexport` as a user types it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


def ffexport(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ffexport", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_the_golden_check_is_a_table(bundle: Path) -> None:
    done = ffexport("--model", bundle)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["graph", "output", "max", "error", "relative", "decisions"]
    assert len(lines) == 10
    assert all(line.endswith("ok") for line in lines[1:9])


def test_the_golden_check_as_json(bundle: Path) -> None:
    rows = json.loads(ffexport("--json", FF_MODEL=str(bundle)).stdout)["checks"]
    assert {row["graph"] for row in rows} == {"unit1", "unit2", "unit3", "goodness", "classifier"}
    assert all(row["max_error"] <= 1e-4 * row["scale"] for row in rows)


def test_tensorrt_says_what_is_missing(bundle: Path) -> None:
    done = ffexport("--model", bundle, "--format", "tensorrt")
    assert done.returncode == 6
    assert done.stderr.count("\n") == 1
    assert "TensorRT" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--model", "nothing.ff"), 3, ("nothing.ff", "fftrain mnist")),
        (("--format", "tensorflow"), 2, ("tensorflow", "onnx")),
    ],
)
def test_wrong_words(arguments: tuple[str, ...], code: int, words: tuple[str, ...]) -> None:
    done = ffexport(*arguments)
    assert done.returncode == code
    assert all(word in done.stderr for word in words)
    assert done.stderr.count("\n") == 1


def test_a_full_disk_leaves_the_bundle_as_it_was(bundle: Path, small_disk: Callable[[str], Path]) -> None:
    """On a really full file system of 2 MiB: exit 8, and every byte as before."""
    disk = small_disk("2m")
    path = Path(shutil.copytree(bundle, disk / "model.ff"))
    free = os.statvfs(disk)
    (disk / "filler").write_bytes(b"\0" * (free.f_bavail * free.f_bsize))
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    done = ffexport("--model", path)
    assert done.returncode == 8, done.stderr
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
