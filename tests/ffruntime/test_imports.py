"""The device needs no training framework, and imports nothing that a command does not use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FRAMEWORKS = {"torch", "torchvision", "onnx", "spox", "fftrain", "ffexport", "mlxtend", "rich"}
SERVER = {"starlette", "uvicorn", "anyio", "asyncio", "segno"}

CLASSIFY = """
import sys
from ffruntime.cli import cli
cli.main(sys.argv[1:], standalone_mode=False)
print(*sorted(name for name in sys.modules if "." not in name or name.startswith("ffruntime.")), file=sys.stderr)
"""


def test_classifying_imports_no_framework(exported: Path, picture_files: list[Path]) -> None:
    command = [sys.executable, "-c", CLASSIFY, "classify", "--model", str(exported), str(picture_files[0])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    modules = set(done.stderr.split())
    assert {"ffruntime", "onnxruntime", "numpy"} <= modules
    assert not modules & (FRAMEWORKS | SERVER)
    assert "safetensors" not in modules  # classifying reads no tensor itself
    assert not modules & {"ffruntime.engine", "ffruntime.cuda"}  # nobody asked for TensorRT


def test_help_imports_no_engine() -> None:
    command = [sys.executable, "-c", CLASSIFY, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not set(done.stderr.split()) & {"numpy", "onnxruntime", "PIL"}


LEAST = "import sys; sys.path.insert(0, sys.argv[1]); import ffruntime.__main__; print(*sys.modules)"


def test_next_to_nothing_is_loaded_before_ctrl_c_is_minded() -> None:
    command = [sys.executable, "-S", "-E", "-c", LEAST, str(Path(__file__).parents[2])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"typing", "re", "importlib.metadata", "click", "numpy", "functools"}
