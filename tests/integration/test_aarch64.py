"""The device program on an emulated aarch64: it proves itself, decides as here, goes on with a state begun here.

The user space is `benchmarks/user_space.py`'s, with this checkout first on its path. All that is emulated runs in
one process: importing the engine there takes most of the time.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import user_space
from commands import in_process_text
from pictures import NEW, write_png
from shapes import CLASS_BUNDLE, drawn

from ffruntime.core.precision import TOLERANCE
from ffruntime.model import Model

ROOT = Path(__file__).parents[2]
SPACE = user_space.found(user_space.default_folder())
REASON = "no aarch64 user space, which needs Debian's packages: python benchmarks/user_space.py"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(SPACE is None, reason=REASON)]


def emulated(work: Path, *steps: list[object]) -> list[subprocess.CompletedProcess[str]]:
    """`ffruntime` with these arguments, one after another, on a Cortex-A53."""
    assert SPACE
    (work / "steps.json").write_text(json.dumps([list(map(str, step)) for step in steps]))
    inside = ROOT / "benchmarks" / "aarch64_inside.py"
    done = SPACE.run([inside, work], "cortex-a53", cwd=work, path=ROOT)
    assert done.returncode == 0, done.stderr
    did = json.loads((work / "did.json").read_text())
    return [
        subprocess.CompletedProcess(step["arguments"], step["exit"], step["stdout"], step["stderr"]) for step in did
    ]


def test_on_an_emulated_aarch64(tmp_path: Path) -> None:
    model, images = CLASS_BUNDLE, drawn(60)[0]
    squares = [write_png(tmp_path / f"{index}.png", NEW, index) for index in range(10)]
    learn = ["learn", "--model", model, "--state", tmp_path / "state", "--label", NEW, "--update", "now", "--steps"]
    classify = ["classify", "--model", model, "--state", tmp_path / "state", "--json", squares[9]]
    state = ["--model", model, "--state", tmp_path / "state"]
    begun = in_process_text("ffruntime", *learn, "5", "--yes", *squares[:5])
    assert begun.returncode == 0, begun.stderr
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "models.json").write_text(json.dumps({"classes": (str(model), len(images))}))

    did = emulated(
        tmp_path,
        ["verify", "--model", model],
        [*learn, "5", "--yes", *squares[5:9]],
        classify,
        ["export-state", *state, tmp_path / "learned.state"],
        ["rollback", *state],
    )
    assert [step.returncode for step in did] == [0] * 5, [step.stderr for step in did]
    assert json.loads(did[2].stdout)["label"] == NEW

    theirs, ours = np.load(tmp_path / "classes-aarch64.npy"), Model(model, state=False).scores(images)
    first, second = np.sort(ours, 1)[:, :-3:-1].T
    clear = first - second > TOLERANCE * np.abs(ours).max()
    assert clear.sum() > len(images) / 2
    assert (theirs.argmax(1) == ours.argmax(1))[clear].all()
    assert np.abs(theirs - ours).max() <= TOLERANCE * np.abs(ours).max()

    history = in_process_text("ffruntime", "history", *state, "--json")
    rows = [json.loads(line) for line in history.stdout.splitlines()]
    assert [row["kind"] for row in rows] == ["update", "update"]
    applied = in_process_text(
        "ffruntime", "apply-state", "--model", model, "--state", tmp_path / "new", tmp_path / "learned.state"
    )
    assert applied.returncode == 0, applied.stderr
    again = in_process_text("ffruntime", *classify[:4], tmp_path / "new", *classify[5:])
    assert json.loads(again.stdout)["label"] == NEW
