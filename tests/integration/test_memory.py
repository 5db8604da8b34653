"""The memory that is planned is the memory that a process takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import learning
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell a process's peak"),
]

PEAK = Path(__file__).parents[2] / "benchmarks" / "peak.py"


def planned_and_measured(path: Path, use: str) -> tuple[int, int]:
    run = subprocess.run([sys.executable, str(PEAK), str(path), *use.split()], stdout=subprocess.PIPE, check=True)
    planned, measured = map(int, run.stdout.split())
    return planned, measured


@pytest.mark.parametrize(
    "use", ["goodness 1 1", "goodness 64 10", "classifier 64 1", "shortlist 64 4", "update 16 10 8"]
)
def test_planned_is_what_a_fresh_process_needs(exported: Path, use: str) -> None:
    """Within 15 %."""
    planned, measured = planned_and_measured(exported, use)
    assert planned == pytest.approx(measured, rel=0.15)


@pytest.fixture(scope="module")
def of_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with class goodness that has not trained."""
    return learning.make_bundle(tmp_path_factory.mktemp("class") / "3.ff", "class", 32, 3, 3, 32)


@pytest.mark.parametrize("use", ["goodness 64 1", "exit 64 1", "update 16 1 8"])
def test_planned_for_class_goodness_too(of_classes: Path, use: str) -> None:
    """Within 15 %."""
    planned, measured = planned_and_measured(of_classes, use)
    assert planned == pytest.approx(measured, rel=0.15)
