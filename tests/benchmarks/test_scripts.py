"""Every script that measures can be imported, and is listed: no checker reads benchmarks."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))
PARTS = {"common", "corruption"}  # of other scripts


@pytest.mark.slow
def test_every_script_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])  # some add to it
    failed = {}
    for name in SCRIPTS:
        try:
            importlib.import_module(name)
        except Exception as error:
            failed[name] = repr(error)
    assert not failed


def test_every_script_has_its_row() -> None:
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    pages = {name for name in SCRIPTS if name.startswith("page")}
    named = {name for name in SCRIPTS if f"`{name}.py`" in listed or f"{name.split('_')[0]}_*.py" in listed}
    assert set(SCRIPTS) - named - pages - PARTS == set()
