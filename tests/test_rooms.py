"""Rooms keep to themselves: which package may import what, and that no import runs in a circle."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("ffruntime", "fftrain", "ffexport")
FORBIDDEN = {
    "ffruntime": {"torch", "torchvision", "onnx", "spox", "fftrain", "ffexport", "mlxtend", "rich"},
    "fftrain": {"ffexport", "onnx", "spox"},
    "ffexport": {"fftrain", "torch", "torchvision"},
}
CONTRACT = {"numpy", "msgspec", "safetensors", "tomli", *sys.stdlib_module_names}  # what ffruntime/core rests on

# What the other two programs may take of ffruntime beside the contract.
OF_RUNTIME = {
    "fftrain": {
        "ffruntime.command",  # how every command ends: one line and an exit code
        "ffruntime.start",  # and how it begins
        "ffruntime.pictures.picture",  # pictures are read for training as a device reads them
        "ffruntime.pictures.picture_file",  # and so are those of a folder found
        "ffruntime.model",  # to explain what a device would answer
        "ffruntime.saliency",  # to explain what accuracy rests on
        "ffruntime.lock",  # one writer of a bundle at a time
        "ffruntime.class_maps",  # to draw a readout's maps as a device does
    },
    "ffexport": {
        "ffruntime.command",
        "ffruntime.start",
        "ffruntime.backend",  # ONNX Runtime's providers: a graph is proven by running it
        "ffruntime.session",
        "ffruntime.engine",  # what a bundle says of an engine, and which one fits
        "ffruntime.cuda",  # whether there is a driver
        "ffruntime.model",
        "ffruntime.golden",  # the golden check itself
        "ffruntime.lock",
        "ffruntime.signing",  # who must have signed a state
        "ffruntime.embedding",  # what the first unit receives, for a new bundle's golden vectors
        "ffruntime.shortlist",  # which labels are in play, to calibrate it
        "ffruntime.early_exit",  # which unit is sure, to calibrate it
    },
}


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(file): file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))}


def imports(module: str) -> Iterator[str]:
    """Names of the modules that a module imports anywhere in it, lazily and for types alone, too."""
    file = MODULES[module]
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield whole if whole in MODULES else base


@pytest.mark.parametrize("room", FORBIDDEN)
def test_no_room_imports_what_it_must_not(room: str) -> None:
    """Not even lazily: every import statement in every file counts."""
    for module in MODULES:
        if module.split(".")[0] == room:
            assert not {name.partition(".")[0] for name in imports(module)} & FORBIDDEN[room], module


def test_the_contract_rests_on_little() -> None:
    for module in MODULES:
        if module.startswith("ffruntime.core"):
            others = {name for name in imports(module) if not name.startswith("ffruntime.core")}
            assert {name.partition(".")[0] for name in others} <= CONTRACT, module


def test_the_server_alone_has_a_web_framework() -> None:
    web = {"starlette", "uvicorn", "segno", "python_multipart", "anyio"}
    users = {module for module in MODULES if {name.partition(".")[0] for name in imports(module)} & web}
    assert {module for module in users if not module.startswith("ffruntime.serve.")} == {"ffruntime.commands.serve"}


@pytest.mark.parametrize("room", OF_RUNTIME)
def test_the_workstation_takes_the_contract_and_little_else_of_the_runtime(room: str) -> None:
    taken = {name for module in MODULES if module.split(".")[0] == room for name in imports(module)}
    others = {n for n in taken if n.split(".")[0] == "ffruntime" and not n.startswith("ffruntime.core")}
    assert others == OF_RUNTIME[room]  # a line that is no longer needed goes


def test_no_import_runs_in_a_circle() -> None:
    graph = {module: {name for name in imports(module) if name in MODULES} for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_every_file_can_be_read_in_one_sitting() -> None:
    long = {
        module: count for module, file in MODULES.items() if (count := len(file.read_text().splitlines())) > 400
    }
    assert not long
