"""The papers' systems, each a recipe, beside what was published for them.

    python benchmarks/systems.py FOLDER SYSTEM... [--epochs N] [--seed 0]

Trains as a user does, `fftrain mnist --recipe SYSTEM`, into FOLDER, and goes on where that was interrupted; what is
there by the same recipe is not trained again. fftrain says beforehand how long it takes, and reads the test images
once, when training has ended. A run replaces its system's row in the results and leaves the others: of one FOLDER,
several may run side by side, as they do on a GPU that one of them does not fill. A row holds the recipe that made
it, so that it cannot outlive a change of that unnoticed.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import machine, record, recorded
from filelock import FileLock
from msgspec import convert, to_builtins
from msgspec.structs import replace

from ffruntime.core.bundle import Bundle
from ffruntime.core.manifest import MANIFEST
from fftrain.checkpoint import checkpoint_path
from fftrain.recipe import Recipe, load_recipe, with_epochs

# System: data set, and published test accuracy in per cent, by the epochs that the recipe says.
SYSTEMS: dict[str, tuple[str, float | None]] = {
    "hinton-mlp": ("mnist", 98.64),
    "hinton-mlp-jitter": ("mnist", 99.36),
    "hinton-unsupervised": ("mnist", 98.63),
    "hinton-recurrent": ("mnist", 98.69),
    "hinton-local": ("cifar10", 59.0),  # two layers, squares minimised, every label
    "hinton-local-high": ("cifar10", 56.0),  # squares maximised
    "hinton-local-bp": ("cifar10", 63.0),
    "intff": ("mnist", 98.00),
    "intff-small": ("mnist", 94.04),
    "intff-output": ("mnist", None),  # theta is ours
    "intff-cnn": ("mnist", None),  # ours
    "ff-mlp-sequential": ("mnist", None),  # unstated in our notes of the paper
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("systems", nargs="+", choices=SYSTEMS, metavar="SYSTEM", help=", ".join(SYSTEMS))
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args()
    o.folder.mkdir(parents=True, exist_ok=True)
    for name in o.systems:
        recipe = load_recipe(name)
        shorter = with_epochs(recipe, o.epochs)
        path = o.folder / f"{name}-{shorter.schedule.epochs}-{o.seed}.ff"
        command = ["fftrain", SYSTEMS[name][0], "--recipe", name, "--seed", str(o.seed)]
        command += ["--epochs", str(o.epochs)] if o.epochs else []
        if not is_trained(path, shorter):
            how = "--resume" if checkpoint_path(path).exists() else "--force"
            subprocess.run([sys.executable, "-m", *command, "--out", str(path), how], check=True)
        row = {"command": shlex.join(command), "published_test": SYSTEMS[name][1], **figures(path)}
        row |= {
            "of_epochs": recipe.schedule.epochs,
            "machine": machine(),
            "recipe": to_builtins(replace(shorter, about="")),
        }
        with FileLock(o.folder / "results.lock"):
            rows = {**recorded("systems").get("rows", {}), name: row}
            record("systems", {"rows": dict(sorted(rows.items()))})


def is_trained(path: Path, recipe: Recipe) -> bool:
    """Whether the bundle at `path` is there, and trained by just this recipe."""
    return (path / MANIFEST).exists() and convert(Bundle(path).manifest.training.recipe, Recipe) == recipe


def figures(path: Path) -> dict[str, Any]:
    """What a bundle says of its training."""
    manifest = Bundle(path).manifest
    training = manifest.training
    return {
        "data": training.data.source.partition(";")[0],
        "epochs": training.epochs,
        "seed": training.seed,
        "device": training.device,
        "precision": training.precision,
        "accuracy": manifest.accuracy,
    }


if __name__ == "__main__":
    main()
