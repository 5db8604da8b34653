"""Accuracy of `fftrain mnist` with its defaults: on MNIST (or what --data gives), and on the offline sample.

    python benchmarks/default_recipe.py FOLDER [--seeds 1]

Trains as a user does, into FOLDER/mnist-<seed>.ff and FOLDER/sample-<seed>.ff; what is there is not trained again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from common import record

from ffruntime.bundle import read_manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for kind, options in (("mnist", []), ("sample", ["--offline"])):
        for seed in range(arguments.seeds):
            path = arguments.folder / f"{kind}-{seed}.ff"
            if not path.exists():
                command = [
                    sys.executable,
                    "-m",
                    "fftrain",
                    "mnist",
                    "--seed",
                    str(seed),
                    "--out",
                    str(path),
                    *options,
                ]
                subprocess.run(command, check=True)
            manifest = read_manifest(path)
            training = manifest.training
            rows.append(
                {
                    "data": training.data.source.partition(";")[0],
                    "recipe": training.recipe_name,
                    "epochs": training.epochs,
                    "seed": seed,
                    "device": training.device,
                    "precision": training.precision,
                    "training_within_15_minutes": training.seconds <= 15 * 60,
                    "accuracy": manifest.accuracy,
                }
            )
    record("default_recipe", {"runs": rows})


if __name__ == "__main__":
    main()
