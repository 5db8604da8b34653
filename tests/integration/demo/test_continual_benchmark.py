"""`benchmarks/continual.py`, quickly, on tiny bundles: every method leaves a row, and is not run again."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import common
import continual
import page_continual
import page_text
import pytest

pytestmark = pytest.mark.slow


def test_every_part_is_recorded_once_and_shown(
    data: Path,
    nine_classes: Path,
    counted_classes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(data / "MNIST", tmp_path / "data" / "MNIST")
    shutil.copytree(data / "MNIST", tmp_path / "data" / "FashionMNIST")
    monkeypatch.setenv("FF_DATA", str(tmp_path / "data"))
    for module in (common, page_text):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    bundles = [str(nine_classes), str(counted_classes), str(counted_classes)]
    monkeypatch.setattr(sys, "argv", ["continual.py", *bundles, "--quick", "--work", str(tmp_path / "work")])
    continual.main()
    found: dict[str, Any] = common.recorded("continual_class_quick")
    assert {part: len(rows["methods"]) for part, rows in found.items() if part != "machine"} == {
        "digit": 8,
        "split": 11,
        "fashion": 11,
        "worlds": 11,
    }
    rows = [row for part in found if part != "machine" for row in found[part]["methods"].values()]
    assert all(row["kept"] >= 0 and row["learn_gmac"] >= 0 and row["seconds"] >= 0 for row in rows)
    assert all(row["kept"] <= 400_000 for part in ("split", "fashion") for row in found[part]["methods"].values())
    digit = found["digit"]["methods"]["class statistics (ffruntime learn)"]
    assert {len(draws) for draws in digit["new"].values()} == {2}

    monkeypatch.setattr(page_continual, "NAME", "continual_class_quick")
    page = page_continual.section()
    for title in ("A digit never seen", "Split-MNIST", "Split-Fashion-MNIST", "Changed worlds"):
        assert f"### {title}\n" in page

    def refuse(*_: object) -> None:
        raise AssertionError("what is recorded is run again")

    monkeypatch.setattr(continual, "record", refuse)
    continual.main()
