"""The three programs, as a user runs them: train, export, classify a picture in a fresh process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess:
    program = shutil.which(str(command[0]), path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    assert program, f"{command[0]} is not installed: pip install -e '.[all,test]'"
    done = subprocess.run([program, *map(str, command[1:])], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


def test_train_export_classify(tmp_path: Path, digit_files: list[Path]) -> None:
    """In the order of the README, in an empty folder, with nothing but defaults, a small recipe and few images."""
    run("fftrain", "mnist", "--offline", "--recipe", ROOT / "tests" / "tiny.toml", "--epochs", 6, cwd=tmp_path)
    table = run("ffexport", cwd=tmp_path).stdout
    assert "goodness.onnx" in table
    assert "FAILED" not in table
    assert "reproduces" in run("ffruntime", "verify", cwd=tmp_path).stdout
    three = run("ffruntime", "classify", "--json", ROOT / "examples" / "three.png", cwd=tmp_path)
    assert json.loads(three.stdout)["label"] == "3"
    answers = [
        json.loads(line)
        for line in run("ffruntime", "classify", "--json", *digit_files, cwd=tmp_path).stdout.splitlines()
    ]
    right = sum(answer["label"] == file.stem[-1] for answer, file in zip(answers, digit_files, strict=True))
    assert right >= 15, [answer["label"] for answer in answers]
