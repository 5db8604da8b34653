"""`ffexport` as a user types it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import in_process_text


def ffexport(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """Without any data set: exemplars alone are fast."""
    return in_process_text("ffexport", *arguments, env={"FF_DATA": "/nonexistent", **environment})


@pytest.mark.slow
def test_the_export_ends_with_a_table(bundle: Path) -> None:
    done = ffexport("--model", bundle)
    assert done.returncode == 0, done.stderr
    header, *rows, shortlist, last = done.stdout.splitlines()
    assert header.split()[:3] == ["artefact", "bytes", "precision"]
    assert {row.split()[0] for row in rows} >= {"unit1.onnx", "goodness.onnx", "weights.safetensors"}
    assert all(row.endswith("ok") for row in rows)
    assert shortlist.startswith("mode shortlist: 1.")
    assert "ffruntime classify" in last


@pytest.mark.slow
def test_the_table_as_json(bundle: Path) -> None:
    report = json.loads(ffexport("--json", FF_MODEL=str(bundle)).stdout)
    assert {row["graph"] for row in report["checks"]} >= {"unit1", "unit2", "unit3", "goodness", "classifier"}
    assert all(row["max_error"] <= 1e-4 * row["slack"] * row["scale"] for row in report["checks"])
    goodness = next(row for row in report["artefacts"] if row["artefact"] == "goodness.onnx")
    assert goodness["size"] == (bundle / "goodness.onnx").stat().st_size
    assert goodness["agree"] == goodness["decisions"] == 500


@pytest.mark.slow
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
        (("--format", "onx"), 2, ("did you mean 'onnx'",)),
        (("--precision", "fp61"), 2, ("did you mean 'fp16'",)),
        (("--device", "jetson-orin-nanoo"), 2, ("did you mean 'jetson-orin-nano'",)),
        (("--device", "mine.toml"), 2, ("mine.toml", "No such file")),
        (("--data", __file__), 2, (f"--data {__file__}: is no directory",)),
    ],
)
def test_wrong_words(arguments: tuple[str, ...], code: int, words: tuple[str, ...], exported: Path) -> None:
    done = ffexport(*arguments, **({} if "nothing.ff" in arguments else {"FF_MODEL": str(exported)}))
    assert done.returncode == code
    assert all(word in done.stderr for word in words)
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
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
