"""docs/variants.md keeps its word: its example runs as it stands there, and what it names is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ffruntime import Model
from ffruntime.core.bundle import Bundle

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "variants.md").read_text()


@pytest.mark.slow
def test_the_worked_example_runs(tmp_path: Path) -> None:
    """Its files written, its commands run, in an empty folder, from training to the answer."""
    for _, name, text in re.findall(r"```(python|toml) (\S+)\n(.+?)```", PAGE, re.DOTALL):
        (tmp_path / name).write_text(text)
    (commands,) = re.findall(r"```sh\n(.+?)```", PAGE, re.DOTALL)
    shutil.copy(ROOT / "examples" / "three.png", tmp_path)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-e", "-c", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    patterns = np.load(tmp_path / "walsh.npy")
    assert len(np.unique(patterns.reshape(12, -1), axis=0)) == 12
    model = Model(tmp_path / "walsh.ff", state=False)
    manifest = Bundle(tmp_path / "walsh.ff").manifest
    assert manifest.labels["kind"] == "file"
    assert manifest.accuracy["validation"]["goodness"] > 0.6
    assert model.classify(tmp_path / "three.png").label == "3"


def test_what_the_page_names_is_where_it_says() -> None:
    named = re.findall(r"`(\w+)`[^`.;]*? (?:of|in|beside) `([\w/]+\.py)`", PAGE.replace("\n", " "))
    assert len(named) > 5
    for name, path in named:
        assert re.search(rf"\b{name}\b", (ROOT / path).read_text()), (name, path)
    for path in re.findall(r"`((?:ff\w+|tests|benchmarks)/[\w/]+\.py)`", PAGE):
        assert (ROOT / path).exists(), path
