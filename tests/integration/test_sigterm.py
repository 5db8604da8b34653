"""SIGTERM to what takes long on a workstation, as a container's first process: each ends in order."""

from __future__ import annotations

from pathlib import Path

import pytest
from first_process import First
from pictures import draw
from PIL import Image

from ffruntime.core.bundle import Bundle
from ffruntime.core.shipped import MODEL
from fftrain.checkpoint import read_checkpoint

pytestmark = [pytest.mark.posix, pytest.mark.slow]

TINY = Path(__file__).parents[1] / "tiny.toml"


def test_training_writes_a_checkpoint(tmp_path: Path) -> None:
    """It ends as interrupted, and says how to go on."""
    for name in ("cross", "ring"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for seed in range(30):
            Image.fromarray(draw(name, seed)).save(tmp_path / "pictures" / name / f"{seed}.png")
    run = ("folder", "pictures", "--recipe", TINY, "--device", "cpu", "--threads", 1, "--epochs", 50)
    first = First("-m", "fftrain", *run, cwd=tmp_path)
    first.wait_for("epoch   1/50")
    code, _, errors = first.terminate()
    assert code == 130, errors
    assert "--epochs 50 --resume" in errors
    assert "Traceback" not in errors
    _, progress, _ = read_checkpoint(tmp_path / "model.ff.checkpoint")
    assert progress.epoch >= 1
    assert not (tmp_path / "model.ff").exists()


def test_an_export_leaves_the_bundle_as_it_was(bundle: Path, tmp_path: Path) -> None:
    before, scratch = Bundle(bundle).manifest, tmp_path / "scratch"
    scratch.mkdir()
    export = ("-X", "importtime", "-m", "ffexport", "--model", bundle, "--precision", "int8")
    first = First(*export, cwd=tmp_path, TMPDIR=str(scratch))
    first.wait_for("ffexport.quantize")  # one of the last modules
    code, said, errors = first.terminate()
    assert (code, said) == (143, ""), errors
    assert "Traceback" not in errors
    assert Bundle(bundle).manifest == before
    assert not list(scratch.iterdir())


def test_a_demonstration_leaves_nothing(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    first = First("-m", "ffruntime", "demo", "--quick", "--model", MODEL, cwd=tmp_path, TMPDIR=str(scratch))
    first.process.stdout.readline()  # that figures of a quick one are none to quote
    code, _, errors = first.terminate()
    assert code == 143, errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == [scratch]
    assert not list(scratch.iterdir())
