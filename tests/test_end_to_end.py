"""The three programs, as a user runs them: train, export, classify a picture in a fresh process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from digits import read_digits
from PIL import Image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess:
    program = shutil.which(str(command[0]), path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    assert program, f"{command[0]} is not installed: pip install -e '.[all,test]'"
    done = subprocess.run([program, *map(str, command[1:])], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


def test_train_export_classify(tmp_path: Path) -> None:
    """In the order of the README, in an empty folder, with nothing but defaults, a small recipe and few images."""
    run("fftrain", "mnist", "--offline", "--recipe", ROOT / "tests" / "tiny.toml", "--epochs", 6, cwd=tmp_path)
    table = run("ffexport", cwd=tmp_path).stdout
    assert "goodness.onnx" in table
    assert "FAILED" not in table
    assert "reproduces" in run("ffruntime", "verify", cwd=tmp_path).stdout
    three = run("ffruntime", "classify", "--json", ROOT / "examples" / "three.png", cwd=tmp_path)
    assert json.loads(three.stdout)["label"] == "3"
    (tmp_path / "digits").mkdir()
    images, labels = read_digits()
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "digits" / f"{index:02}.png")
    lines = run("ffruntime", "classify", "--json", "digits", cwd=tmp_path).stdout.splitlines()
    right = [json.loads(line)["label"] == str(label) for line, label in zip(lines, labels, strict=True)]
    assert sum(right) >= 75  # of 100
