"""How much longer a training step takes while another program keeps one core busy, by how OpenMP's threads wait.

    python benchmarks/contention.py [--recipes class,cpu] [--seconds 6] [--rounds 3]

torch's threads meet after every parallel loop. Those that wait spin for a while before they sleep; where another
program needs their core, spinning uses up the share of it that their next work would need. Each setting is an
environment that a fresh process is started with; `fftrain` itself sets what `fftrain/commands/shared.py` says. Runs
alternate, and the median of a setting's rounds counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from common import record

from fftrain.commands.shared import WAITING

SETTINGS: dict[str, dict[str, str]] = {
    "as torch comes": {},
    "as fftrain sets it": dict(WAITING),
    "never spinning": {"GOMP_SPINCOUNT": "0"},
}
BUSY = "import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default="class,cpu")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--time", metavar="RECIPE", help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.time:
        print(json.dumps(milliseconds(o.time, o.seconds)))
        return
    rows = []
    for recipe in o.recipes.split(","):
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in SETTINGS}
        for _ in range(o.rounds):
            for name, environment in SETTINGS.items():
                alone = in_fresh_process(recipe, o.seconds, environment)
                with_another = beside_another(recipe, o.seconds, environment)
                found[name].append((alone, with_another))
        for name, pairs in found.items():
            alone, beside = (statistics.median(column) for column in zip(*pairs, strict=True))
            rows.append(
                {
                    "recipe": recipe,
                    "setting": name,
                    "environment": SETTINGS[name],
                    "step_ms_alone": round(alone, 2),
                    "step_ms_beside_another": round(beside, 2),
                    "ratio": round(beside / alone, 2),
                }
            )
    record("contention", {"seconds": o.seconds, "rounds": o.rounds, "rows": rows})


def beside_another(recipe: str, seconds: float, environment: dict[str, str]) -> float:
    """A step's time while a loop keeps one of the cores busy."""
    core = max(os.sched_getaffinity(0))
    with subprocess.Popen([sys.executable, "-c", BUSY.format(core=core)]) as busy:
        try:
            return in_fresh_process(recipe, seconds, environment)
        finally:
            busy.kill()


def in_fresh_process(recipe: str, seconds: float, environment: dict[str, str]) -> float:
    """A step's time in milliseconds, in a process that is started with such an environment."""
    command = [sys.executable, __file__, "--time", recipe, "--seconds", str(seconds)]
    unset = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(command, env={**unset, **environment}, capture_output=True, text=True, check=True)
    milliseconds: float = json.loads(done.stdout)
    return milliseconds


def milliseconds(recipe: str, seconds: float) -> float:
    """The mean step of so many seconds, of random images of MNIST's shape, in this process."""
    import torch

    from ffruntime.core.data import Examples
    from ffruntime.core.manifest import DataSource, Digit
    from fftrain.dataset import Dataset
    from fftrain.epoch import epoch_batches
    from fftrain.hardware import find_hardware
    from fftrain.recipe import load_recipe
    from fftrain.run import start
    from fftrain.step import training_step

    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (640, 1, 28, 28), dtype=torch.uint8, generator=random)
    images = Examples(pixels, torch.arange(640) % 10)
    source = DataSource("mnist", "random images", False, 640, 640, 640)
    dataset = Dataset(images, images, images, tuple("0123456789"), source, Digit(20), 0)
    hardware = find_hardware("cpu")
    run = start(load_recipe(recipe), dataset, 0, torch.device("cpu"), hardware.dtype)
    hard = torch.tensor(run.recipe.negatives.hard)
    batches = list(epoch_batches(images, run.recipe, 0, 0, skip=0))
    for batch in batches[:5]:
        training_step(run, batch, hard)
    steps, begun = 0, time.perf_counter()
    while (taken := time.perf_counter() - begun) < seconds:
        for batch in batches:
            training_step(run, batch, hard)
        steps += len(batches)
    return 1e3 * taken / steps


if __name__ == "__main__":
    main()
