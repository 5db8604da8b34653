"""The device needs no training framework: rooms keep to themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    "ffruntime": {"torch", "torchvision", "onnx", "spox", "fftrain", "ffexport", "mlxtend", "rich"},
    "fftrain": {"ffexport", "onnx", "spox"},
    "ffexport": {"fftrain", "torch", "torchvision"},
}


@pytest.mark.parametrize("room", FORBIDDEN)
def test_no_room_imports_what_it_must_not(room: str) -> None:
    """Not even lazily: every import statement in every file counts."""
    for file in sorted((ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            imported = {name.partition(".")[0] for name in names}
            assert not imported & FORBIDDEN[room], file


CLASSIFY = """
import sys
from ffruntime.cli import cli
cli.main(sys.argv[1:], standalone_mode=False)
print(*sorted(name for name in sys.modules if "." not in name), file=sys.stderr)
"""


def test_classifying_imports_no_framework(exported: Path, picture_files: list[Path]) -> None:
    command = [sys.executable, "-c", CLASSIFY, "classify", "--model", str(exported), str(picture_files[0])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    modules = set(done.stderr.split())
    assert {"ffruntime", "onnxruntime", "numpy"} <= modules
    assert not modules & FORBIDDEN["ffruntime"]
    assert "safetensors" not in modules  # classifying reads no tensor itself


def test_help_imports_no_engine() -> None:
    command = [sys.executable, "-c", CLASSIFY, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not set(done.stderr.split()) & {"numpy", "onnxruntime", "PIL"}
