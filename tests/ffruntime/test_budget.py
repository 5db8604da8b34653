"""`--memory` and `--device`: a limit is kept by computing less at a time, or refused with the numbers."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pictures import CLASSES
from PIL import Image

from ffruntime.commands.options import within
from ffruntime.core.devices import load_profile
from ffruntime.core.learning import MICRO_BATCH
from ffruntime.core.plan import MARGIN
from ffruntime.model import Model

PEAK = """
import sys
from ffruntime.cli import cli
try:
    cli.main(sys.argv[1:], standalone_mode=False)
except SystemExit:
    pass
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) / 1024, file=sys.stderr)
"""


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ffruntime", *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize("action", ["classify", "learn"])
def test_a_limit_is_kept(action: str, exported: Path, picture_files: list[Path], tmp_path: Path) -> None:
    model = shutil.copytree(exported, tmp_path / "model.ff")
    refused = run(
        action,
        picture_files[0],
        *(["--label", "dots"] if action == "learn" else []),
        "--model",
        model,
        "--memory",
        5,
    )
    assert refused.returncode == 6
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1
    enough = int(refused.stderr.rsplit("allow ", 1)[1].split()[0].replace(",", ""))
    arguments = [action, picture_files[0], "--model", model, "--memory", enough]
    arguments += ["--label", "dots", "--tolerance", 1] if action == "learn" else []
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    assert float(done.stderr.split()[-1]) <= enough
    # A picture that does not fit is refused before it is decoded, the others go on; with that much more it fits.
    huge = tmp_path / "huge.png"
    Image.open(picture_files[0]).resize((4000, 4000)).convert("RGB").save(huge)
    arguments.insert(1, huge)
    refused = run(*arguments)
    assert refused.returncode == 4
    assert refused.stderr.startswith(f"error: {huge}: takes ")
    assert refused.stderr.count("\n") == 1
    assert "adopted" in refused.stdout or str(picture_files[0]) in refused.stdout
    more = int(refused.stderr.rsplit("allow ", 1)[1].split()[0])
    enough += math.ceil(more * MARGIN)
    arguments[arguments.index("--memory") + 1] = enough
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    assert "takes" not in done.stderr
    assert enough - more < float(done.stderr.split()[-1]) <= enough


def test_a_device_chooses_the_calls(exported: Path, picture_files: list[Path]) -> None:
    name = "raspberry-pi-zero-2w"
    done = run("classify", picture_files[0], "--model", exported, "--device", name, "--json")
    assert json.loads(done.stdout)["label"] in CLASSES
    device = load_profile(name)
    model, (calls, picture) = within(Model(exported, state=False), "goodness", name, None)
    assert calls
    assert picture
    assert (model.session.batch, model.session.labels_per_call) == (calls.batch, calls.labels)
    assert (calls.batch, calls.labels) == (device.inference.max_batch, device.inference.max_labels)
    assert (model.session.threads, model.session.arena) == (device.cpu.cores, False)
    wrong = run("classify", picture_files[0], "--model", exported, "--device", "raspberry-pi-zero")
    assert wrong.returncode == 2
    assert "did you mean 'raspberry-pi-zero-2w'?" in wrong.stderr


def test_a_larger_micro_batch_counts_where_it_is_asked_for(exported: Path) -> None:
    model = Model(exported, state=False)
    for asked, got in ((None, MICRO_BATCH), (32, 32)):
        calls = within(model, "update", None, 1 << 16, asked)[1].calls
        assert calls
        assert calls.micro_batch == got


def test_a_bundle_that_cannot_learn_says_so_whatever_the_memory(exported: Path, tmp_path: Path) -> None:
    model = shutil.copytree(exported, tmp_path / "model.ff")
    manifest = json.loads((model / "manifest.json").read_text())
    manifest["files"] = {name: file for name, file in manifest["files"].items() if not name.startswith("gradient")}
    (model / "manifest.json").write_text(json.dumps(manifest))
    refused = run("learn", "--model", model, "--memory", 5)
    assert refused.returncode == 3
    assert "no gradient graphs" in refused.stderr
    assert not (tmp_path / "model.state").exists()
