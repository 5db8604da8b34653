"""Which recipe tells most after a short training: validation accuracy after equal processor time of one core.

    python benchmarks/short_trainings.py [--seconds 1 2 5 10 20 60] [--seeds 1] [--recipes class micro]

A step of each recipe is timed in turns, in processor time, in one process, on one thread; a training has as many
steps as go into the seconds, its whole schedule, and is measured on all validation images, by which its total is
weighed. The recipes are as they are shipped: they were chosen for long trainings. Test images are not read. Times
that are there are not measured again, and rows that are there not trained.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import record, recorded
from msgspec import structs
from training import Loop, fast_loop

from ffruntime.core.data import Examples, data_directory
from fftrain.dataset import Dataset, load_dataset
from fftrain.recipe import Recipe, load_recipe
from fftrain.run import start, train

NAME = "short_trainings"
CPU = torch.device("cpu")
TIMED = 10  # steps in a turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[1, 2, 5, 10, 20, 60])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--recipes", nargs="+", default=["class", "micro"])
    parser.add_argument("--rounds", type=int, default=10, help="turns of what is timed")
    o = parser.parse_args()
    torch.set_num_threads(1)
    dataset = load_dataset("mnist", data_directory(None))
    recipes = {name: load_recipe(name) for name in o.recipes}
    times = recorded(NAME).get("seconds_of_a_step", {})
    if not recipes.keys() <= times.keys():
        times = step_times(recipes, dataset, o.rounds)
    for seconds in o.seconds:
        for seed in range(o.seeds):
            for name, recipe in recipes.items():
                keep(name, recipe, dataset, seed, seconds, times)


def step_times(recipes: dict[str, Recipe], dataset: Dataset, rounds: int) -> dict[str, float]:
    """Processor seconds of a step of each, the best of the turns; the first turn warms up."""
    loops, best = {}, dict.fromkeys(recipes, float("inf"))
    for name, recipe in recipes.items():
        count = TIMED * recipe.schedule.batch
        few = Examples(dataset.train.pixels[:count], dataset.train.labels[:count])
        loops[name] = fast_loop(structs.replace(dataset, train=few), recipe, CPU, torch.float32)
    for turn in range(rounds + 1):
        for name, loop in loops.items():
            taken = processor_time(loop) / TIMED
            best[name] = min(best[name], taken) if turn else best[name]
    return {name: round(seconds, 6) for name, seconds in best.items()}


def processor_time(loop: Loop) -> float:
    begun = time.process_time()
    loop.epoch()
    return time.process_time() - begun


def keep(name: str, recipe: Recipe, dataset: Dataset, seed: int, seconds: float, times: dict[str, float]) -> None:
    """Train, unless that was done, and put the row among the results."""
    rows: dict[str, Any] = recorded(NAME).get("rows", {})
    key, steps = f"{name}, {seconds:g} s, seed {seed}", max(1, int(seconds / times[name]))
    if rows.get(key, {}).get("steps") == steps:
        return
    row = {"recipe": name, "seconds": seconds, "seed": seed, "steps": steps}
    row["validation"] = trained(recipe, dataset, seed, steps)
    record(NAME, {"seconds_of_a_step": times, "rows": {**rows, key: row}})


def trained(recipe: Recipe, dataset: Dataset, seed: int, steps: int) -> float:
    """Accuracy on all validation images after so many steps."""
    run = start(recipe, dataset, seed, CPU, torch.float32)
    run.total = steps
    with tempfile.TemporaryDirectory() as folder:
        for _ in train(run, Path(folder) / "model.ff", resume=False, stop=lambda: False):
            pass
    accuracy: float = run.history[-1]["total"]["accuracy"]
    return accuracy


if __name__ == "__main__":
    main()
