"""SIGTERM to the device program as a container's first process: it ends in order, and nothing is lost."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from first_process import First
from killing import wait_for
from PIL import Image

from ffruntime.core.bundle import Bundle
from ffruntime.learning.store import Store

pytestmark = pytest.mark.posix


def test_while_the_program_is_loading(tmp_path: Path) -> None:
    (tmp_path / "loading.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(60)\n")
    first = First("-c", "from ffruntime.start import start; start('loading')", cwd=tmp_path)
    first.wait_for("loading", "stdout")
    assert first.terminate() == (143, "", "")


@pytest.mark.slow
def test_watching(bundle: Path, picture_files: list[Path], tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    first = First("-m", "ffruntime", "classify", "--model", bundle, "--watch", inbox, "--json", cwd=tmp_path)
    first.wait_for("watching")
    Image.open(picture_files[0]).save(inbox / "one.png")
    answer = json.loads(first.wait_for("one.png", "stdout"))
    assert answer["label"]
    assert first.terminate() == (143, "", "")


@pytest.mark.slow
def test_learning(bundle: Path, picture_files: list[Path], tmp_path: Path) -> None:
    """What was acknowledged is learned from or pending, what was not is counted, and learning goes on."""
    learn = ("learn", "--model", bundle, "--steps", 2, "--label", "dots", "--yes", *picture_files * 20)
    first = First("-m", "ffruntime", *learn, cwd=tmp_path)
    said = first.wait_for("stored", "stdout")
    code, rest, errors = first.terminate()
    assert code == 143
    assert "Traceback" not in errors
    stored = 64 * sum(line.startswith("stored") for line in (said + rest).splitlines())
    assert f"pictures that were not stored, the last ones named: {400 - stored}\n" in errors
    state = Bundle(bundle).state_directory
    with closing(Store(state, Bundle(bundle).manifest)) as store:
        learned = 64 * sum(version.adopted for version in store.history())
        assert learned + len(store.pending()) == stored


@pytest.mark.slow
def test_measuring(bundle: Path, tmp_path: Path) -> None:
    """The process that measures a mode ends, too, and leaves no scratch folder."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    bench = ("bench", "--model", bundle, "--seconds", 30)
    first = First("-m", "ffruntime", *bench, cwd=tmp_path, TMPDIR=str(scratch))
    wait_for(first.children)
    assert first.terminate() == (143, "", "")
    assert not list(scratch.iterdir())
