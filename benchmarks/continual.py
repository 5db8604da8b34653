"""Learning on the device, measured: the scenes of `ffruntime demo` (docs/demo.md), Split-MNIST with five seeds.

    python benchmarks/continual.py nine.ff model.ff untrained.ff [--goodness pair|class] [--seeds 5] [--split test]

The bundles: `fftrain mnist --recipe cpu --classes 0-8 --out nine.ff`, `fftrain mnist --recipe cpu`, `fftrain mnist
--recipe stream --epochs 0 --out untrained.ff`, with class goodness recipes `class` and `class-stream`; each of them
exported by `ffexport --model`. Needs MNIST in $FF_DATA. Settings were chosen on validation images (--split
validation); the test images are what is shown. The page and the picture, `demo.html` and `demo.svg`, are written to
the working directory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

from common import record


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundles", nargs=3, metavar="BUNDLE")
    parser.add_argument("--goodness", choices=("pair", "class"), default="pair")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--split", default="test")
    asked = parser.parse_args()
    nine, model, untrained = asked.bundles
    options = ["--nine", nine, "--model", model, "--untrained", untrained]
    options += ["--seeds", str(asked.seeds), "--split", asked.split, "--json"]
    command = [sys.executable, "-m", "ffruntime", "demo", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    *scenes, written = map(json.loads, done.stdout.splitlines())
    of_classes = "_class" if asked.goodness == "class" else ""
    name = f"continual{of_classes}" + ("" if asked.split == "test" else f"_{asked.split}")
    record(name, {"measured": written["machine"], **{scene.pop("scene"): untimed(scene) for scene in scenes}})


def untimed(value: Any) -> Any:
    """A JSON value without its `seconds`: the machine may have had other work."""
    if isinstance(value, dict):
        return {name: untimed(part) for name, part in value.items() if name != "seconds"}
    return [untimed(part) for part in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
