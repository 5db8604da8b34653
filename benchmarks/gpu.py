"""What only a GPU can show, part by part, each bounded by the clock: for a machine that is there for minutes.

    python benchmarks/gpu.py [--only PART …] [--data DIR] [--wheels DIR] [--work DIR] [--out DIR] [--minutes M]
    python benchmarks/gpu.py --list          what there is, and how long each part takes
    python benchmarks/gpu.py --dry           everything on a processor, tiny, in this process

It needs this checkout, Python with torch, and data sets in DIR (default: $FF_DATA); nothing is fetched. Wheels of
what else is missing are installed into the working folder. Parts run in the order of their worth, each in a process
of its own: one that fails, or is too slow, costs no other its results. A part takes five minutes at most; then it
is interrupted, and goes on where it was when it is called again (trainings from their checkpoints, in the working
folder). Each writes its file, `gpu_PART.json`, as soon as it knows something. What cannot run here says why.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
CACHE = Path.home() / ".cache" / "ffedge" / "gpu"
LIMIT = 300.0  # seconds of a part
MARGIN = 25.0  # of them, in which an interrupted part ends in order: it writes checkpoint and results
LEAST = 15.0  # seconds of work that are worth a start
ENDED = {0: "done", 75: "cannot run here"}  # exit codes of a part's process; others are failures


class Part(NamedTuple):
    """A part, in the order of worth: what it does, and the seconds it is expected to take on an H200."""

    about: str
    seconds: int


PARTS = {
    "tests": Part("pytest -m gpu", 120),
    "steps": Part("ways to run the step of recipe paper, side by side; the fastest is what `paper` takes", 150),
    "paper": Part("recipe paper, 200 epochs, then all validation and test images; called again, it goes on", 290),
    "training": Part("training.py: speed over a plain loop, share of the peak, memory at 3 and 12 layers", 120),
    "time": Part("recipe gpu, three seeds: time to 99.16 % of the MNIST test images", 200),
    "fashion": Part("recipe class on Fashion-MNIST", 150),
    "cifar": Part("recipe class on CIFAR-10", 150),
    "onnxruntime": Part("ONNX Runtime's CUDA provider: golden check, decisions, latency", 60),
    "jitter": Part("recipe hinton-mlp-jitter, 500 epochs", 250),
    "tensorrt-rtx": Part("TensorRT-RTX: engines built, run, given other weights, and their golden check", 90),
    "tensorrt": Part("TensorRT: the same", 200),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--data", type=Path, help="data sets; default: $FF_DATA")
    parser.add_argument("--wheels", type=Path, help="wheels of packages that are missing here")
    parser.add_argument("--work", type=Path, default=CACHE, help="checkpoints and bundles; default: %(default)s")
    parser.add_argument("--out", type=Path, help="where results go; default: benchmarks/results")
    parser.add_argument(
        "--minutes", type=float, help="of all parts together; what there is no time for is not begun"
    )
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    parser.add_argument("--dry", action="store_true", help="on a processor, tiny, in this process")
    parser.add_argument("--inside", type=float, help=argparse.SUPPRESS)  # a part's own process, with its seconds
    o = parser.parse_args()
    names = o.only or list(PARTS)
    if o.list:
        print(*(f"{name:<13}{PARTS[name].seconds:>4} s  {PARTS[name].about}" for name in names), sep="\n")
        return
    work = (o.work / "dry" if o.dry else o.work).resolve()  # parts run elsewhere, too
    work.mkdir(parents=True, exist_ok=True)
    if o.out or o.dry:
        os.environ["FF_RESULTS"] = str((o.out or work / "results").resolve())
    if o.data:
        os.environ["FF_DATA"] = str(o.data.resolve())
    if o.inside is not None:
        sys.exit(inside(names[0], work, o.inside))
    outcomes = {n: dry(n, work) for n in names} if o.dry else in_turn(names, work, o.wheels, o.minutes)
    print(*(f"{name:<13}{said}" for name, said in outcomes.items()), sep="\n")
    sys.exit(any(said.startswith("failed") for said in outcomes.values()))


def in_turn(names: Sequence[str], work: Path, wheels: Path | None, minutes: float | None) -> dict[str, str]:
    """Run the parts in processes of their own, as long as there is time -> how each ended."""
    end = time.monotonic() + 60 * minutes if minutes else float("inf")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, paths(work, wheels))])}
    outcomes = {}
    for name in names:
        seconds = min(LIMIT, end - time.monotonic())
        if seconds < MARGIN + LEAST:
            outcomes[name] = "not begun: no time is left"
            continue
        print(
            f"\n=== {name}: {PARTS[name].about}; about {PARTS[name].seconds} s, at most {seconds:.0f} s", flush=True
        )
        command = [sys.executable, str(Path(__file__)), "--only", name, "--work", str(work)]
        begun = time.monotonic()
        code = watched([*command, "--inside", f"{seconds - MARGIN:.0f}"], seconds, environment)
        outcome = ENDED.get(code, f"failed, exit code {code}" if code is not None else "stopped: too slow")
        outcomes[name] = f"{outcome} ({time.monotonic() - begun:.0f} s)"
        print(f"=== {name}: {outcomes[name]}", flush=True)
    return outcomes


def paths(work: Path, wheels: Path | None) -> list[Path]:
    """Where modules come from: this checkout, and what was unpacked from wheels of packages that are not here."""
    packages = work / "packages"
    if wheels is not None:
        missing = [wheel for wheel in sorted(wheels.glob("*.whl")) if not is_installed(wheel, packages)]
        if missing:
            command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target"]
            subprocess.run([*command, str(packages), *map(str, missing)], check=True)
    return [ROOT, packages, *map(Path, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))]


def is_installed(wheel: Path, packages: Path) -> bool:
    """Whether a wheel's distribution is here, or was unpacked before."""
    name = wheel.name.split("-")[0]
    return any(True for where in (sys.path, [str(packages)]) for _ in distributions(name=name, path=where))


def watched(
    command: Sequence[str], seconds: float, environment: dict[str, str], patience: float = 20.0
) -> int | None:
    """Run a command and all that it starts for so long at most: then it is interrupted, told to end, and killed,
    with patience between.

    Returns its exit code, None where it had to be stopped.
    """
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    for signal_sent, wait in ((None, seconds), (signal.SIGINT, patience), (signal.SIGTERM, patience / 4)):
        if signal_sent is not None:
            os.killpg(process.pid, signal_sent)
        try:
            code = process.wait(wait)
        except subprocess.TimeoutExpired:
            continue
        return code if signal_sent is None else None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return None


def inside(name: str, work: Path, seconds: float) -> int:
    """A part, in its own process -> its exit code."""
    from gpu_parts import RUN, NotHere, Place

    try:
        RUN[name](Place(work, time.monotonic() + seconds))
    except NotHere as reason:
        print(f"{name}: {reason}")
        return 75
    return 0


def dry(name: str, work: Path) -> str:
    """A part on a processor, tiny, in this process -> how it ended."""
    from gpu_parts import RUN, NotHere, Place

    print(f"\n=== {name}: {PARTS[name].about}; on a GPU about {PARTS[name].seconds} s", flush=True)
    begun = time.process_time()
    try:
        RUN[name](Place(work, time.monotonic() + LIMIT, dry=True))
        outcome = "done"
    except NotHere as reason:
        outcome = f"cannot run here: {reason}"
    except Exception as error:
        outcome = f"failed: {type(error).__name__}: {error}"
    return f"{outcome} ({time.process_time() - begun:.0f} s of a core)"


if __name__ == "__main__":
    main()
