"""The planner's figures beside what a fresh process has resident at most (its high-water mark), without torch.

    python benchmarks/memory.py [FOLDER]

Networks that have not trained, exported into FOLDER (default: a temporary one; what is there already is taken), in
every mode and in updates, in small and in large calls (`peak.py`). The result is planned over measured.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import torch
from common import record

from ffexport.export import export_onnx
from ffruntime.core.data import data_directory
from fftrain.dataset import load_dataset
from fftrain.pack import pack_run
from fftrain.recipe import Recipe, load_recipe, with_epochs
from fftrain.run import start

PEAK = Path(__file__).parent / "peak.py"
MIB = 1 << 20
USES = {  # modes by images and labels in a call; updates by those, and images in a call of a gradient graph
    "cpu": (
        *("goodness 1 1", "goodness 1 10", "goodness 4 4", "goodness 16 10", "classifier 1 1", "classifier 64 1"),
        *("shortlist 16 4", "update 1 1 1", "update 1 1 8", "update 16 10 8", "update 1 1 32"),
    ),
    "paper-32-3x3": (
        *("goodness 1 1", "goodness 1 10", "goodness 4 4", "goodness 16 10", "classifier 1 1", "classifier 64 1"),
        *("shortlist 4 4", "update 1 1 1", "update 1 1 8", "update 16 10 8", "update 1 1 32"),
    ),
    "paper": (
        *("goodness 1 1", "goodness 4 4", "classifier 4 1", "shortlist 1 4"),
        *("update 1 1 1", "update 1 1 4", "update 16 10 4"),
    ),
    "3 x 1000 linear": (
        *("goodness 1 1", "goodness 16 10", "classifier 16 1", "shortlist 4 4"),
        *("update 1 1 1", "update 16 10 8", "update 1 1 32"),
    ),
    "class": (
        *("goodness 1 1", "goodness 16 1", "goodness 256 1", "exit 1 1", "exit 256 1"),
        *("update 1 1 1", "update 1 1 8", "update 64 1 8", "update 1 1 32"),
    ),
    "hinton-recurrent": ("goodness 1 1", "goodness 256 10", "classifier 4 1", "shortlist 4 4"),
}


def recipe_of(name: str) -> Recipe:
    """A recipe by name, without training; or the default one with linear units."""
    if not name.endswith("linear"):
        return with_epochs(load_recipe(name), 0)
    count, width = (int(part) for part in name.removesuffix("linear").split("x"))
    plain = msgspec.to_builtins(with_epochs(load_recipe("cpu"), 0))
    unit = {"ops": [{"op": "linear", "out": width}, {"op": "relu"}]}
    plain["network"]["units"] = [{**unit, "scored": index > 0} for index in range(count)]
    return msgspec.convert(plain, Recipe)


def bundle_of(name: str, folder: Path) -> Path:
    """An exported bundle of a recipe's network, made unless it is there."""
    path = folder / f"{name.replace(' ', '-')}.ff"
    if not path.exists():
        dataset = load_dataset("mnist", data_directory(None))
        run = start(recipe_of(name), dataset, 0, torch.device("cpu"), torch.float32)
        pack_run(path, run, name, "cpu", "fp32", {})
        export_onnx(path)
    return path


def peak(path: Path, use: str) -> tuple[int, int]:
    """Planned and measured bytes of a fresh process."""
    command = [sys.executable, str(PEAK), str(path), *use.split()]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    planned, measured = map(int, run.stdout.split())
    return planned, measured


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        rows = {f"{name}: {use}": peak(bundle_of(name, folder), use) for name, uses in USES.items() for use in uses}
    ratios = {case: planned / measured for case, (planned, measured) in rows.items()}
    record(
        "memory",
        {
            "planned_over_measured": {case: round(ratio, 3) for case, ratio in ratios.items()},
            "lowest": round(min(ratios.values()), 3),
            "highest": round(max(ratios.values()), 3),
            "measured_mib": {case: round(measured / MIB, 1) for case, (_, measured) in rows.items()},
        },
    )


if __name__ == "__main__":
    main()
