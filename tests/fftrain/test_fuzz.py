"""Every reader of the workstation, likewise (`tests/ffruntime/test_fuzz.py`)."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from attack_readers import READERS

from ffruntime.core.errors import FFError

TRIES = int(os.environ.get("FF_FUZZ", "100"))
SLOW = ("checkpoints", "recipes")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name, reader in READERS.items()
        if reader.training
    ],
)
def test_what_is_changed_is_taken_or_refused_in_one_line(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    once = READERS[name].make(tmp_path)
    for number in range(TRIES):
        try:
            once(random.Random(f"0 {name} {number}"))
        except FFError as error:
            assert "\n" not in str(error)  # noqa: PT017
    assert capfd.readouterr().err == ""
