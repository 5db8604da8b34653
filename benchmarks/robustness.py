"""Robustness against a corrupted training set (Tang, 2023): Integrated FF, FF, FF-CNN and backpropagation.

    python benchmarks/robustness.py FOLDER [--seeds 3]

Of the 50,000 training images a quarter each is clean, noisy, with dead pixels, and pure noise with any label
(`corruption.py`); validation and test images are clean. The paper leaves unstated how strong noise is and how many
pixels are dead: DEVIATION and DEAD are chosen here. Learning rate and epochs are chosen for each system on the
validation images, with seed 0; every further seed draws its own corruption and network, and reads the test images
once, when its training has ended. What is in the results already is not trained again.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from common import record, recorded
from corruption import KINDS, corrupt
from msgspec import structs, to_builtins

from ffruntime.core.data import Examples, data_directory
from fftrain.dataset import Dataset, load_dataset, on_device
from fftrain.evaluation import accuracy
from fftrain.hardware import find_hardware
from fftrain.override import Override
from fftrain.recipe import Recipe, load_recipe
from fftrain.run import Run, start, train

DEVIATION = 0.5  # of the Gaussian noise, as a share of a pixel's range
DEAD = 0.5  # chance of a pixel to be dead
PUBLISHED = {"intff": 94.38, "ff": 90.78, "ff-cnn": None, "bp": 93.83}  # test accuracy in per cent
EPOCHS = {"intff": (4, 10), "ff": (4, 10), "ff-cnn": (2, 4), "bp": (4, 10)}
RATES = {"intff": (3e-4, 1e-3), "ff": (3e-4, 1e-3), "ff-cnn": (1e-3, 4e-3), "bp": (3e-4, 1e-3)}


def one_layer_a_unit(recipe: Recipe) -> list[dict[str, Any]]:
    """The recipe's layers, each with its ReLU a unit of its own."""
    layers = [op for unit in recipe.network.units for op in unit.ops if to_builtins(op)["op"] != "relu"]
    return [{"ops": [to_builtins(layer), {"op": "relu"}]} for layer in layers]


def system(name: str, settings: Iterable[Override]) -> Recipe:
    """(784, (200, 200, 200), (50, 50)): of two units; of five; with one loss for all of it. Or the default
    convolutional network, narrowed, without augmentation."""
    if name == "ff-cnn":
        widths = [(f"network.units.{unit}.ops.0.out", width) for unit, width in enumerate((8, 16, 100))]
        return load_recipe("cpu", [*widths, ("augment", {}), *settings])
    layers = one_layer_a_unit(load_recipe("intff"))
    fields: dict[str, list[Override]] = {
        "intff": [("schedule.head_lr", 0)],
        "ff": [("network.units", layers), ("schedule.head_lr", 0)],
        "bp": [
            ("network.units", [*({**layer, "scored": False} for layer in layers[:-1]), layers[-1]]),
            ("loss", {"kind": "cross_entropy"}),
            ("schedule.head_lr", dict(settings)["schedule.lr"]),
        ],
    }
    return load_recipe("intff", [*fields[name], *settings])


def trained(recipe: Recipe, clean: Dataset, seed: int, folder: Path) -> Run:
    """The recipe's network, trained on the corrupted images of that seed."""
    images, _ = corrupt(clean.train, DEVIATION, DEAD, seed)
    hardware = find_hardware()
    run = start(recipe, structs.replace(clean, train=images), seed, torch.device(hardware.device), hardware.dtype)
    for _ in train(run, folder / "model.ff", resume=False, stop=lambda: False):
        pass
    return run


def share_right(run: Run, split: Examples) -> float:
    """Accuracy in the mode that the recipe is for: goodness, or the classifier under backpropagation."""
    images, classes, mode = on_device(split, run.device), len(run.dataset.classes), run.modes[0]
    return accuracy(run.network, run.tensors, images, classes, torch.float32, (mode,))[mode]


def summary(published: float | None, runs: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Mean and standard deviation of the test accuracy, in per cent, beside the published one."""
    figures = [100 * run["test"] for run in runs.values()]
    deviation = round(statistics.stdev(figures), 2) if len(figures) > 1 else None
    return {"published": published, "mean": round(statistics.mean(figures), 2), "deviation": deviation}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    o = parser.parse_args()
    o.folder.mkdir(parents=True, exist_ok=True)
    clean = load_dataset("mnist", data_directory(None))
    made_by = {"kinds": KINDS, "gaussian_deviation": DEVIATION, "dead_pixels": DEAD}
    result = {"corruption": made_by, "systems": {}, **recorded("robustness")}
    for name in PUBLISHED:
        row = result["systems"].setdefault(name, {"trials": {}, "runs": {}})
        choices = {
            f"{epochs} epochs at {rate:g}": [("schedule.epochs", epochs), ("schedule.lr", rate)]
            for epochs, rate in product(EPOCHS[name], RATES[name])
        }
        for choice in choices.keys() - row["trials"].keys():
            run = trained(system(name, choices[choice]), clean, 0, o.folder)
            row["trials"][choice] = share_right(run, clean.validation)
            record("robustness", result)
        row["chosen"] = max(row["trials"], key=row["trials"].__getitem__)
        for seed in range(1, o.seeds + 1):
            if str(seed) in row["runs"]:
                continue
            run = trained(system(name, choices[row["chosen"]]), clean, seed, o.folder)
            row["runs"][str(seed)] = {
                "validation": share_right(run, clean.validation),
                "test": share_right(run, clean.test),
            }
            row.update(summary(PUBLISHED[name], row["runs"]))
            record("robustness", result)


if __name__ == "__main__":
    main()
