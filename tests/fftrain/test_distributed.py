"""Several processes, one training run: torchrun and gloo, for real."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ffruntime.core.bundle import Bundle

pytestmark = pytest.mark.slow

SUPPORT = Path(__file__).parent.parent / "support"
TINY = Path(__file__).parent.parent / "tiny.toml"


def torchrun(processes: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True)


CHANGES = {
    "local": f'extends = "{TINY}"\nabout = "tiny"\n[set]\ngradient = "local"\n',
    # Batch statistics over several processes do not go with it.
    "crossing": f'extends = "{TINY}"\nabout = "tiny"\n[set]\ngradient = "crossing"\n'
    '"network.units.1.inputs.0.normalise" = "divisive"\n',
    "class": 'extends = "class"\nabout = "narrow"\n[set]\n"network.units.*.ops.0.out" = 6\n',
}


@pytest.mark.parametrize("kind", CHANGES)
def test_two_processes_give_the_result_of_one_with_the_same_global_batch(kind: str, tmp_path: Path) -> None:
    """Batch statistics, hard negatives and classifier too; in float64, where only the order of sums differs."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(CHANGES[kind])
    networks = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.safetensors"
        result = torchrun(processes, SUPPORT / "distributed_steps.py", recipe, out)
        assert result.returncode == 0, result.stderr
        networks.append(load_file(out))
    for name, tensor in networks[0].items():
        torch.testing.assert_close(networks[1][name], tensor, rtol=1e-6, atol=1e-9, msg=name)


def test_torchrun_trains_and_writes_one_bundle(tmp_path: Path) -> None:
    out = tmp_path / "model.ff"
    options = ["--offline", "--recipe", TINY, "--epochs", "1", "--threads", "1", "--out", out]
    result = torchrun(2, "-m", "fftrain", "mnist", *options)
    assert result.returncode == 0, result.stderr
    manifest = Bundle(out).manifest
    assert manifest.accuracy["validation"]["classifier"] > 0.5
    assert result.stdout.count("next: ffexport") == 1  # one of the processes speaks
    assert not out.with_name("model.ff.checkpoint").exists()


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    options = ["--offline", "--recipe", TINY, "--set", "schedule.batch=63", "--out", tmp_path / "model.ff"]
    result = torchrun(2, "-m", "fftrain", "mnist", *options)
    assert result.returncode != 0
    assert "a batch of 63 cannot be shared by 2 processes" in result.stderr
    assert not (tmp_path / "model.ff").exists()
