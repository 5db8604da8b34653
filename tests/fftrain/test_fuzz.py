"""Every reader of the workstation, likewise (`tests/ffruntime/test_fuzz.py`)."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzzing import readers, try_reader


@pytest.mark.parametrize("name", readers(training=True, slow=("checkpoints", "recipes")))
def test_what_is_changed_is_taken_or_refused_in_one_line(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    try_reader(name, tmp_path, capfd)
