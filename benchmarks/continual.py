"""Learning on the device beside other methods that learn on, in one run: what is learned, and what it costs.

    python benchmarks/continual.py NINE MODEL UNTRAINED [--only digit|split|fashion|worlds …] [--method TEXT]
    python benchmarks/continual.py NINE MODEL UNTRAINED --goodness pair [--seeds 5]

The bundles: `fftrain mnist --classes 0-8 --out nine.ff`, `fftrain mnist`, `fftrain mnist --recipe class-stream
--epochs 0 --out untrained.ff`, each exported by `ffexport --model`. Several of nine digits, each of a seed of its
own, are named in one argument, with commas between. Bundles of former runs are completed, in copies in --work.
Needs MNIST and Fashion-MNIST in $FF_DATA.

    digit     a digit never seen, from 1, 5, 20 and 80 examples: 20 draws
    split     Split-MNIST in one pass: five tasks of two digits, one answer of ten, 400 kB kept; --seeds
    fashion   the same with Fashion-MNIST
    worlds    six changed worlds, from 320 labelled images each; --seeds

What has been recorded is not run again, method by method, seed by seed, and of methods that take steps draw by
draw, unless --again. Settings
were chosen on validation images (--split validation; benchmarks/README.md has what was tried); the test images are
what is recorded. `--goodness pair` runs the scenes of `ffruntime demo` (docs/demo.md), with bundles of recipes
`cpu` and `stream`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import continual_digit
import continual_split
import continual_worlds
from common import machine, record, recorded
from unsure import prepared

from ffruntime.core.bundle import Bundle

Row = dict[str, Any]
Rows = Iterator[tuple[str, Callable[[Row], Row | None]]]  # a method's name, and what adds to its row, while it can
PARTS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "digit": continual_digit.methods,
    "split": lambda o: continual_split.methods(o, "mnist"),
    "fashion": lambda o: continual_split.methods(o, "fashion-mnist"),
    "worlds": continual_worlds.methods,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nine")
    parser.add_argument("model")
    parser.add_argument("untrained")
    parser.add_argument("--goodness", choices=("pair", "class"), default="class")
    parser.add_argument("--only", nargs="+", choices=(*PARTS,), default=[*PARTS])
    parser.add_argument("--method", default="", help="only methods in whose name this is")
    parser.add_argument("--seeds", type=int, default=5, help="of the split sets, the worlds and the scenes")
    parser.add_argument("--split", default="test")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try it; the results are no figures")
    parser.add_argument("--work", type=Path, default=Path("continual-bundles"))
    o = parser.parse_args()
    if o.goodness == "pair":
        scenes(o)
        return
    o.work.mkdir(parents=True, exist_ok=True)
    o.nines = [ready(Path(path), o.work) for path in o.nine.split(",")]
    o.model, o.untrained = (ready(Path(path), o.work) for path in (o.model, o.untrained))
    name = "continual_class" + ("" if o.split == "test" else f"_{o.split}") + ("_quick" if o.quick else "")
    for part in o.only:
        for method, run in PARTS[part](o):
            if o.method not in method:
                continue
            print(f"{part}: {method}", file=sys.stderr)
            row: Row = {} if o.again else recorded(name).get(part, {}).get("methods", {}).get(method, {})
            while more := run(row):
                row = {**more, "measured_on": machine()}
                found = {key: value for key, value in recorded(name).items() if key != "machine"}  # as it is by now
                rows = found.setdefault(part, {"methods": {}})
                rows["methods"][method] = row
                rows["bundles"] = {path.name: described(path) for path in (*o.nines, o.model, o.untrained)}
                record(name, found)


def ready(path: Path, work: Path) -> Path:
    """The bundle, or its completed copy in the folder `work`, which is made where it is not there."""
    copy = work / path.name
    return copy if (copy / "goodness.onnx").exists() else prepared(path, work)


def described(path: Path) -> str:
    """By which recipe a bundle was trained, and how long."""
    training = Bundle(path).manifest.training
    return f"recipe {training.recipe_name}, {training.epochs} epochs, seed {training.seed}"


def scenes(o: argparse.Namespace) -> None:
    """The demonstration's scenes; `demo.html` and `demo.svg` are written to the working directory."""
    options = ["--nine", o.nine, "--model", o.model, "--untrained", o.untrained]
    options += ["--seeds", str(o.seeds), "--split", o.split, "--json", *["--quick"] * o.quick]
    command = [sys.executable, "-m", "ffruntime", "demo", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    *found, written = map(json.loads, done.stdout.splitlines())
    name = "continual" + ("" if o.split == "test" else f"_{o.split}") + ("_quick" if o.quick else "")
    record(name, {"measured": written["machine"], **{scene.pop("scene"): untimed(scene) for scene in found}})


def untimed(value: Any) -> Any:
    """A JSON value without its `seconds`: the machine may have had other work."""
    if isinstance(value, dict):
        return {name: untimed(part) for name, part in value.items() if name != "seconds"}
    return [untimed(part) for part in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
