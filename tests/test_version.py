"""The version of a release stands in one place, and the changelog begins with it."""

from __future__ import annotations

import re
from pathlib import Path

from ffruntime.core import __version__

ROOT = Path(__file__).parents[1]
WITH_VERSIONS = (".py", ".toml", ".service", "Dockerfile")


def test_the_changelog_begins_with_it() -> None:
    found = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert found[0] == __version__
    assert len(set(found)) == len(found)


def test_nothing_else_says_it() -> None:
    rooms = (ROOT / name for name in ("ffruntime", "fftrain", "ffexport", "deploy"))
    files = [ROOT / "pyproject.toml", *(file for room in rooms for file in room.rglob("*"))]
    said = [file for file in files if file.name.endswith(WITH_VERSIONS) and f'"{__version__}"' in file.read_text()]
    assert said == [ROOT / "ffruntime" / "core" / "__init__.py"]
