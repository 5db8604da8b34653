"""Tries of a reader: inputs that were changed at random are taken, or refused in one line."""

from __future__ import annotations

import os
import random
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from attack_readers import READERS

from ffruntime.core.errors import FFError

TRIES = int(os.environ.get("FF_FUZZ", "100"))


def readers(training: bool, slow: Collection[str]) -> list[Any]:
    """Parameters of a test: names of the workstation's readers, where `training`, or of the device's."""
    return [
        pytest.param(name, marks=pytest.mark.slow if name in slow else ())
        for name, reader in READERS.items()
        if reader.training == training
    ]


def try_reader(name: str, folder: Path, capfd: pytest.CaptureFixture) -> None:
    """As many tries as `FF_FUZZ` says. A refusal is one line, and nothing else is said."""
    once = READERS[name].make(folder)
    for number in range(TRIES):
        try:
            once(random.Random(f"0 {name} {number}"))
        except FFError as error:
            assert "\n" not in str(error)  # noqa: PT017
    assert capfd.readouterr().err == ""  # what Pillow, libtiff and numpy have to say is in the line
