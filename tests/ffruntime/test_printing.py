"""What is printed is shown: a terminal obeys nothing that stands in a name."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from commands import in_process_text

from ffruntime.core.bundle import Bundle
from ffruntime.core.errors import BundleError, printable
from ffruntime.core.manifest import MANIFEST

PACKAGES = Path(__file__).parents[2]
EVIL = "a\x1b[2J\nok: all well\x9b\u202e.png"


def test_escapes_are_those_of_json() -> None:
    assert printable("Maß 三 👩‍🔬 $x\u3000y") == "Maß 三 👩‍🔬 $x\u3000y"
    escaped = printable(EVIL + "\udcff\0")
    assert escaped.isprintable()
    assert json.loads(f'"{escaped}"') == EVIL + "\udcff\0"


def test_everything_is_printed_in_one_place() -> None:
    """But pictures and QR codes in half blocks, which are colours and nothing else."""
    for package in ("ffruntime", "fftrain", "ffexport"):
        for file in (PACKAGES / package).rglob("*.py"):
            if file.name != "command.py":
                for line in re.findall(r".*click\.echo.*", file.read_text(encoding="utf-8")):
                    assert "draw(" in line or "code(" in line, f"{file}: {line.strip()}"


@pytest.mark.parametrize("command", [("classify",), ("learn", "--label", "dots", "--steps", "1")])
def test_names_of_files(command: tuple[str, ...], bundle: Path, picture_files: list[Path], tmp_path: Path) -> None:
    whole, broken = tmp_path / EVIL, tmp_path / f"b{EVIL}"
    shutil.copy(picture_files[0], whole)
    broken.write_text("no picture")
    done = in_process_text("ffruntime", command[0], "--model", bundle, *command[1:], whole, broken, cwd=tmp_path)
    said = done.stdout + done.stderr
    assert "\\u001b[2J" in said
    assert all(line.isprintable() for line in said.split("\n"))
    assert not any(line.startswith("ok:") for line in said.split("\n"))


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "\0", "x" * 1_000_000, "\u202eb"], ids=range(5))
def test_names_of_classes(name: str, bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["classes"][0] = name
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError) as caught:
        Bundle(bundle)
    assert len(str(caught.value)) < 500


def test_other_words_of_a_manifest(bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["made_with"] = {EVIL: EVIL}
    manifest["training"]["recipe_name"] = EVIL
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    done = in_process_text("ffruntime", "info", "--model", bundle, cwd=bundle.parent)
    assert done.returncode == 0
    assert all(line.isprintable() for line in done.stdout.split("\n"))
