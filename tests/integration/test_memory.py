"""The memory that is planned is the memory that a process takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PEAK = Path(__file__).parents[2] / "benchmarks" / "peak.py"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell a process's peak")
@pytest.mark.parametrize(
    "use", ["goodness 1 1", "goodness 64 10", "classifier 64 1", "shortlist 64 4", "update 16 10 8"]
)
def test_planned_is_what_a_fresh_process_needs(exported: Path, use: str) -> None:
    """Within 15 %."""
    command = [sys.executable, str(PEAK), str(exported), *use.split()]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    planned, measured = map(int, run.stdout.split())
    assert planned == pytest.approx(measured, rel=0.15)
