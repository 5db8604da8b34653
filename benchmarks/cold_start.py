"""`ffruntime classify` of one image, cold, process start to exit, against `python -c "import torch"`.

    python benchmarks/cold_start.py [model.ff]

The two take turns in one run; the result is the ratio of their medians.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import record

ROOT = Path(__file__).parents[1]
ROUNDS = 15


def seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begun


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else "model.ff"
    ffruntime = str(Path(sys.executable).with_name("ffruntime"))
    commands = {
        "classify": [ffruntime, "classify", "--model", model, str(ROOT / "examples" / "three.png")],
        "import_torch": [sys.executable, "-c", "import torch"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS + 1):
        for name, command in commands.items():
            times[name].append(seconds(command))
    medians = {name: statistics.median(measured[1:]) for name, measured in times.items()}  # the first fills caches
    ratio = medians["classify"] / medians["import_torch"]
    record("cold_start", {"rounds": ROUNDS, "classify_over_import_torch": round(ratio, 3)})


if __name__ == "__main__":
    main()
