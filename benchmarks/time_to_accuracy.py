"""Time to 99.16 % on the MNIST test split, the paper's figure (Scodellaro et al.): is it reached, and in what time?

    python benchmarks/time_to_accuracy.py FOLDER [--recipe cpu] [--seeds 3]

Trains as a user does (`fftrain mnist --recipe …`), once for each seed, into FOLDER; what is there is not trained
again. The recipe was chosen on validation images; each run reads the test images once, when it has ended, so a run
is reached or not, and its time is that of the whole training. Goals: 60 s on one H200, 15 minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from common import record

from ffruntime.core.bundle import Bundle

TARGET = 0.9916


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipe", default="cpu")
    parser.add_argument("--seeds", type=int, default=3)
    o = parser.parse_args()
    o.folder.mkdir(parents=True, exist_ok=True)
    runs = []
    for seed in range(o.seeds):
        path = o.folder / f"{o.recipe}-{seed}.ff"
        if not path.exists():
            command = [sys.executable, "-m", "fftrain", "mnist", "--recipe", o.recipe, "--seed", str(seed)]
            subprocess.run([*command, "--out", str(path)], check=True)
        manifest = Bundle(path).manifest
        goal = 15 * 60 if "CPU" in manifest.training.device else 60
        runs.append(
            {
                "seed": seed,
                "epochs": manifest.training.epochs,
                "device": manifest.training.device,
                "precision": manifest.training.precision,
                "share_of_the_goals_time": round(manifest.training.seconds / goal, 3),
                "accuracy": manifest.accuracy,
                "reached": max(manifest.accuracy["test"].values()) >= TARGET,
                "reached_by_goodness": manifest.accuracy["test"].get("goodness", 0) >= TARGET,
            }
        )
    record(
        f"time_to_accuracy_{o.recipe}",
        {
            "target": TARGET,
            "recipe": o.recipe,
            "median_share_of_the_goals_time": statistics.median(r["share_of_the_goals_time"] for r in runs),
            "median_test_accuracy": {
                mode: statistics.median(r["accuracy"]["test"][mode] for r in runs)
                for mode in runs[0]["accuracy"]["test"]
            },
            "reached": sum(r["reached"] for r in runs),
            "reached_by_goodness": sum(r["reached_by_goodness"] for r in runs),
            "runs": runs,
        },
    )


if __name__ == "__main__":
    main()
