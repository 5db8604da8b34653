"""Accuracy with the label in the input: recipe `cpu` on MNIST and, briefly, on Fashion-MNIST, `sample` offline.

    python benchmarks/label_in_input.py FOLDER [--seeds 1]

Trains as a user does, into FOLDER/mnist-<seed>.ff, sample-<seed>.ff and fashion-<seed>.ff; what is there is not
trained again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from common import record

from ffruntime.core.bundle import Bundle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    kinds = {
        "mnist": ["mnist", "--recipe", "cpu"],
        "sample": ["mnist", "--offline", "--recipe", "sample"],
        "fashion": ["fashion-mnist", "--recipe", "cpu", "--epochs", "10"],
    }
    for kind, options in kinds.items():
        for seed in range(arguments.seeds):
            path = arguments.folder / f"{kind}-{seed}.ff"
            if not path.exists():
                command = [sys.executable, "-m", "fftrain", *options, "--seed", str(seed), "--out", str(path)]
                subprocess.run(command, check=True)
            manifest = Bundle(path).manifest
            training = manifest.training
            rows.append(
                {
                    "data": training.data.source.partition(";")[0],
                    "recipe": training.recipe_name,
                    "epochs": training.epochs,
                    "seed": seed,
                    "device": training.device,
                    "precision": training.precision,
                    "accuracy": manifest.accuracy,
                }
            )
    record("label_in_input", {"runs": rows})


if __name__ == "__main__":
    main()
