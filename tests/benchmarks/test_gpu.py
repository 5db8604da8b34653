"""The prepared run on a GPU: all of it on a processor, tiny, and what its clock and its order promise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import gpu
import page_gpu
import page_text
import pytest

SCRIPT = Path(gpu.__file__)


@pytest.mark.slow
@pytest.mark.posix
def test_the_whole_run_on_a_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part ends and writes its file, or says why it cannot run; each says beforehand how long it takes. The
    page has what was written."""
    out = tmp_path / "results"
    environment = {**os.environ, "FF_DATA": str(tmp_path)}
    command = [sys.executable, str(SCRIPT), "--dry", "--work", str(tmp_path), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    for name, part in gpu.PARTS.items():
        assert f"=== {name}: {part.about}; on a GPU about {part.seconds} s" in done.stdout
    ended = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[-len(gpu.PARTS) :])
    skipped = {name for name, said in ended.items() if said.startswith("cannot run here: ")}
    assert {"tensorrt"} <= skipped <= {"tensorrt", "tensorrt-rtx"}
    assert {f"gpu_{name}.json" for name in gpu.PARTS.keys() - skipped} == {file.name for file in out.iterdir()}
    steps = json.loads((out / "gpu_steps.json").read_text())
    assert {name for name, row in steps["ways"].items() if row["alike"]} == {"plain", "nchw", "compiled"}
    assert json.loads((out / "gpu_paper.json").read_text())["finished"]
    assert page_gpu.section() == ""
    monkeypatch.setattr(page_text, "RESULTS", out)
    page = page_gpu.section()
    assert all(f"[`gpu_{name}.json`]" in page for name in ("steps", "paper", "time", "onnxruntime", "jitter"))


@pytest.mark.slow
@pytest.mark.posix
def test_a_part_that_is_too_slow_is_interrupted_and_then_killed() -> None:
    polite, stubborn = "import time; time.sleep(60)", "import signal; signal.signal(2, signal.SIG_IGN); "
    assert gpu.watched([sys.executable, "-c", "raise SystemExit(3)"], 20, dict(os.environ)) == 3
    assert gpu.watched([sys.executable, "-c", polite], 0.2, dict(os.environ)) is None
    assert gpu.watched([sys.executable, "-c", stubborn + polite], 0.5, dict(os.environ), patience=0.2) is None


def test_parts_that_fail_or_have_no_time_cost_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """How each ended is said, and how long it may take before it begins."""
    codes = iter([1, 75, 0, None])
    monkeypatch.setattr(gpu, "watched", lambda *_: next(codes))
    outcomes = gpu.in_turn(["tests", "steps", "paper", "training"], tmp_path, None, None)
    assert [said.split(" (")[0] for said in outcomes.values()] == [
        "failed, exit code 1",
        "cannot run here",
        "done",
        "stopped: too slow",
    ]
    assert f"=== paper: {gpu.PARTS['paper'].about}; about 290 s, at most 300 s" in capsys.readouterr().out
    assert gpu.in_turn(["tests"], tmp_path, None, 0.5) == {"tests": "not begun: no time is left"}


def test_no_part_may_take_longer_than_five_minutes() -> None:
    assert gpu.LIMIT == 300
    assert all(part.seconds < gpu.LIMIT for part in gpu.PARTS.values())
