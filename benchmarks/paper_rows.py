"""Rows of the paper's tables that two processor cores can run, after so many epochs (the paper: 200).

    python benchmarks/paper_rows.py FOLDER [--epochs 10] [--recipes paper-16-5x5,paper-32-3x3]

Validation accuracy on all 10,000 validation images, by `fftrain sweep`; goes on where it was interrupted. The test
images are not read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from common import record

from fftrain.recipe import load_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--recipes", default="paper-16-5x5,paper-32-3x3,paper-32-3x3-set2,bp-baseline")
    o = parser.parse_args()
    o.folder.mkdir(parents=True, exist_ok=True)
    sweep = [sys.executable, "-m", "fftrain", "sweep"]
    where = ["--storage", f"sqlite:///{o.folder.resolve()}/rows.db", "--study", f"rows-{o.epochs}"]
    grid = ["--grid", f"recipe={o.recipes}", "--epochs", str(o.epochs)]
    subprocess.run([*sweep, "run", "mnist", *grid, *where], check=True, cwd=o.folder)
    shown = subprocess.run([*sweep, "show", *where, "--json"], check=True, capture_output=True, text=True)
    published = {name: load_recipe(name).about for name in o.recipes.split(",")}
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    record("paper_rows", {"epochs": o.epochs, "published": published, "rows": rows})


if __name__ == "__main__":
    main()
