"""Class goodness: accuracy, time, early exit and precisions of recipe `class`, part by part.

    python benchmarks/class_goodness.py FOLDER PART... [--seeds 3] [--steps N | --minutes M] [--epochs 1 2 3 4]

    mnist            trained as a user does, for 15 minutes of this machine, or for N steps, so that a busy machine
                     repeats what an idle one did in its minutes
    clock            MNIST as a user types it, for M minutes of this machine, one seed
    fashion          Fashion-MNIST, 30 minutes, one seed
    backpropagation  the same network, steps and seeds as `mnist`, one loss for all of it, by its last readout
    time             seconds of a step beside recipe `cpu`'s, in turns, times the steps that each needs to
                     validation accuracy 99.02 %, that of recipe `cpu` after all its epochs; of `class` the fewest
                     of --epochs whose mean over the seeds reaches it
    inference        one image's goodness in ffruntime, beside that of recipe `cpu`'s network, in turns
    weighing         validation accuracy by what weighs the units in the total: the best of each kind
    exit             modes `goodness` and `exit` on all validation images
    fp16, int8       points of validation accuracy lost against fp32

Bundles lie in FOLDER; what is there is not trained again. A part replaces its rows in the results and leaves the
others; a row of a training stays as long as its bundle does. Everything was chosen on validation images; a training
reads the test images once, when it has ended.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from common import machine, record, recorded
from filelock import FileLock
from inference import side_by_side as answers_in_turns
from inference import untrained
from msgspec import convert, structs
from training import convolution_peak, fast_loop
from training import side_by_side as steps_in_turns

from ffexport.export import export_onnx
from ffruntime.backend import in_chunks
from ffruntime.core.architecture import scored_units
from ffruntime.core.bundle import Bundle
from ffruntime.core.data import Examples, data_directory, to_unit_interval
from ffruntime.core.layers import tensors
from ffruntime.core.manifest import MANIFEST, WEIGHTS, Manifest
from ffruntime.core.precision import Precision, in_folder
from ffruntime.model import Model
from ffruntime.session import Session
from fftrain.checkpoint import checkpoint_path
from fftrain.dataset import load_dataset, load_for_manifest
from fftrain.figures import training_macs
from fftrain.hardware import find_hardware
from fftrain.recipe import Recipe, load_recipe
from fftrain.run import start
from fftrain.weighing import candidates

Rows: TypeAlias = Iterator[tuple[str, dict[str, Any]]]  # (name in the results, row)

NAME, RECIPE, BEFORE = "class_goodness", "class", "cpu"  # results, recipe, and the recipe it is compared with
TARGET = 0.9902  # validation accuracy of recipe `cpu` after its 30 epochs: results/label_in_input.json
MINUTES = {"mnist": 15.0, "fashion": 30.0}
TIMED = 20  # steps in a turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("parts", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of mnist and fashion, instead of minutes")
    parser.add_argument("--minutes", type=float, help="of mnist and fashion; default: 15 and 30")
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 2, 3, 4], help="tried by part time")
    parser.add_argument("--rounds", type=int, default=5, help="turns of what is timed")
    o = parser.parse_args()
    o.folder.mkdir(parents=True, exist_ok=True)
    for part in o.parts:
        for name, row in PARTS[part](o):
            keep(o.folder, name, row)


def keep(folder: Path, name: str, row: dict[str, Any]) -> None:
    """Put a row among the results; that of a training stays where it is of the same weights."""
    with FileLock(folder / "results.lock"):
        rows = recorded(NAME).get("rows", {})
        same = "weights" in row and rows.get(name, {}).get("weights") == row["weights"]
        rows = {**rows, name: rows[name] if same else {"machine": machine(), **row}}
        record(NAME, {"rows": dict(sorted(rows.items()))})


# What is trained


def mnist(o: argparse.Namespace) -> Rows:
    for seed in range(o.seeds):
        yield f"mnist-{seed}", trained(o.folder / f"mnist-{seed}.ff", "mnist", seed, *how_long(o, "mnist"))


def clock(o: argparse.Namespace) -> Rows:
    minutes = f"{o.minutes or MINUTES['mnist']:g}"
    row = trained(o.folder / "clock-0.ff", "mnist", 0, "--minutes", minutes)
    yield "clock-0", {**row, "command": f"fftrain mnist --minutes {minutes} --seed 0"}


def fashion(o: argparse.Namespace) -> Rows:
    yield "fashion-0", trained(o.folder / "fashion-0.ff", "fashion-mnist", 0, *how_long(o, "fashion"))


def backpropagation(o: argparse.Namespace) -> Rows:
    for seed in range(o.seeds):
        steps = steps_of(Bundle(bundle_of(o, seed)).manifest)
        options = ["--steps", str(steps), "--set", "loss.kind=cross_entropy"]
        options += ["--set", "dropout=0"] if load_recipe(RECIPE).dropout else []
        name = f"backpropagation-{seed}"
        yield name, trained(o.folder / f"{name}.ff", "mnist", seed, *options)


def how_long(o: argparse.Namespace, part: str) -> tuple[str, str]:
    """The option that says how long to train."""
    return ("--steps", str(o.steps)) if o.steps else ("--minutes", f"{o.minutes or MINUTES[part]:g}")


def trained(path: Path, data: str, seed: int, *options: str) -> dict[str, Any]:
    """The row of a bundle that is there, or is trained now, or is trained to its end. Of one that is there nobody
    knows whether it was trained for minutes: its command says the steps, which repeat it."""
    there = (path / MANIFEST).exists()
    if there and options[0] == "--minutes":
        options = ("--steps", str(steps_of(Bundle(path).manifest)), *options[2:])
    command = ["fftrain", data, "--recipe", RECIPE, *options, "--seed", str(seed)]
    if not there:
        how = ["--resume"] if checkpoint_path(path).exists() else []
        subprocess.run([sys.executable, "-m", *command, "--out", str(path), *how], check=True)
    manifest = Bundle(path).manifest
    training, recipe = manifest.training, convert(manifest.training.recipe, Recipe)
    minutes = float(options[1]) if options[0] == "--minutes" else None
    return {
        "command": shlex.join(command),
        **described(manifest),
        **({"share_of_the_minutes": round(training.seconds / 60 / minutes, 3)} if minutes else {}),
        "data": training.data.source.partition(";")[0],
        "device": training.device,
        "precision": training.precision,
        "seconds": round(training.seconds),
        "weights": manifest.files[WEIGHTS].sha256,
        "parameters": sum(math.prod(t.shape) for t in tensors(manifest.network) if t.learnable),
        "tflop": round(flop(recipe, manifest) * steps_of(manifest) / 1e12, 2),
        "accuracy": manifest.accuracy,
        "total": training.history[-1].get("total") if training.history else None,
    }


def described(manifest: Manifest) -> dict[str, Any]:
    """By which recipe, how long and from which seed a bundle's network was trained."""
    training = manifest.training
    return {
        "recipe": training.recipe_name,
        "steps": steps_of(manifest),
        "epochs": training.epochs,
        "seed": training.seed,
    }


def steps_of(manifest: Manifest) -> int:
    """Steps that a network was trained for."""
    training = manifest.training
    batch: int = convert(training.recipe, Recipe).schedule.batch
    return training.epochs * (training.data.train // batch) if training.steps is None else training.steps


def flop(recipe: Recipe, manifest: Manifest) -> float:
    """What a training step computes: two for each multiply-accumulate, without the optimizer."""
    return 2 * training_macs(recipe, manifest.network) * recipe.schedule.batch


# What is timed


def time_to_target(o: argparse.Namespace) -> Rows:
    """Training time to `TARGET`, over that of recipe `cpu`: of steps alone, without evaluation."""
    tried: dict[int, list[float]] = {}
    for epochs in sorted(o.epochs):
        paths = [o.folder / f"epochs-{epochs}-{seed}.ff" for seed in range(o.seeds)]
        rows = [trained(path, "mnist", seed, "--epochs", str(epochs)) for seed, path in enumerate(paths)]
        tried[epochs] = [row["accuracy"]["validation"]["goodness"] for row in rows]
        if statistics.mean(tried[epochs]) >= TARGET:
            break
    reached = statistics.mean(tried[epochs]) >= TARGET
    seconds, shares = step_times(o.rounds)
    step, before = seconds[RECIPE] / seconds[BEFORE], load_recipe(BEFORE).schedule
    steps_before = before.epochs * (Bundle(paths[0]).manifest.training.data.train // before.batch)
    yield (
        "time",
        {
            "command": this_command(),
            "recipe": RECIPE,
            "steps": rows[0]["steps"],
            "epochs": epochs,
            "seed": list(range(o.seeds)),
            "target": TARGET,
            "reached": reached,
            "validation": {str(tried_epochs): found for tried_epochs, found in tried.items()},
            "cpu_steps": steps_before,
            "time_of_a_step_over_cpu": round(step, 3),
            "time_over_cpu": round(step * rows[0]["steps"] / steps_before, 3) if reached else None,
            "share_of_convolution_peak": shares,
        },
    )


def step_times(rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Best seconds of some steps by each of the two recipes, in turns, in one process; and the share that each
    reaches of the convolution peak, measured in the same precision."""
    hardware = find_hardware("cpu")
    device, dtype = torch.device("cpu"), hardware.dtype
    whole, loops, work = load_dataset("mnist", data_directory(None)), {}, {}
    for name in (RECIPE, BEFORE):
        recipe = load_recipe(name)
        count = TIMED * recipe.schedule.batch
        few = structs.replace(whole, train=Examples(whole.train.pixels[:count], whole.train.labels[:count]))
        loops[name] = fast_loop(few, recipe, device, dtype)
        network = start(recipe, few, 0, device, dtype).network
        work[name] = 2 * training_macs(recipe, network) * count
    peak = convolution_peak(128, 7, 25, device, dtype)
    times = steps_in_turns(loops, rounds, device)
    peak = max(peak, convolution_peak(128, 7, 25, device, dtype))
    seconds = {name: min(turns) for name, turns in times.items()}
    return seconds, {name: round(work[name] / s / peak, 3) for name, s in seconds.items()}


def inference(o: argparse.Namespace) -> Rows:
    """Goodness of one image: of a network's sizes alone, so the one that it is compared with is not trained."""
    path, other = exported(bundle_of(o, 0)), o.folder / f"{BEFORE}-untrained.ff"
    if not (other / MANIFEST).exists():
        untrained(BEFORE, other)
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    models = {
        name: Model(bundle, session=Session(threads=threads), state=False)
        for name, bundle in ((RECIPE, path), (BEFORE, other))
    }

    def goodness(model: Model) -> Callable[[np.ndarray], np.ndarray]:
        return lambda images: model.scores(images, "goodness")

    images = models[RECIPE].bundle.some_images()[:1]
    contestants = {name: goodness(model) for name, model in models.items()}
    with torch.inference_mode():
        seconds, _ = answers_in_turns(contestants, images, o.rounds)
    yield (
        "inference",
        {
            "command": this_command(),
            **described(models[RECIPE].manifest),
            "threads": threads,
            "speed_over_cpu": round(seconds[BEFORE] / seconds[RECIPE], 2),
            "compared_with": f"recipe {BEFORE}, untrained: the time depends on the network's sizes alone",
        },
    )


# What is answered, on all validation images


def early_exit(o: argparse.Namespace) -> Rows:
    for path in trained_bundles(o):
        manifest = Bundle(exported(path)).manifest
        if manifest.exit is None:
            sys.exit(f"{path}: has no thresholds for early exit: ffexport --model {path}")
        model, (pixels, labels) = Model(path, state=False), validation_images(manifest)
        found = {mode: model.scores_and_passes(pixels, mode) for mode in ("goodness", "exit")}
        right = {mode: float(np.mean(scores.argmax(1) == labels)) for mode, (scores, _) in found.items()}
        passes = found["exit"][1]
        yield (
            f"exit-{manifest.training.seed}",
            {
                "command": this_command(),
                **described(manifest),
                "images": len(labels),
                "accuracy": right,
                "points_from_goodness": round(100 * (right["exit"] - right["goodness"]), 3),
                "mean_passes": round(float(passes.mean()), 4),
                "most_passes": round(float(passes.max()), 4),
                "exemplars": {"mean_passes": manifest.exit.passes, "as_goodness": manifest.exit.agree},
            },
        )


def weighing(o: argparse.Namespace) -> Rows:
    """The best of each kind of candidate; the bundle has the best of all."""
    for path in trained_bundles(o):
        manifest = Bundle(exported(path)).manifest
        model, (pixels, labels) = Model(path, state=False), validation_images(manifest)
        asked = {"images": to_unit_interval(pixels), "labels": np.arange(len(manifest.classes))}
        goodness = in_chunks(model.graph("goodness"), 500, len(manifest.classes))(asked)["goodness"]
        losses = [math.nan if loss is None else loss for loss in manifest.training.history[-1]["loss"]]
        best: dict[str, float] = {}
        for name, weights in candidates(goodness, scored_units(manifest.network), losses):
            kind = next((kind for sign, kind in CANDIDATES.items() if sign in name), name)
            best[kind] = max(best.get(kind, 0), float(np.mean((goodness @ weights).argmax(1) == labels)))
        row = {"command": this_command(), **described(manifest), "images": len(labels), "accuracy": best}
        yield f"weighing-{manifest.training.seed}", row


CANDIDATES = {"alone": "one unit alone", " to ": "an interval of units", "×": "a grid of weights"}  # sign in a name


def precision(name: Precision) -> Callable[[argparse.Namespace], Rows]:
    """The part of that precision."""

    def part(o: argparse.Namespace) -> Rows:
        for path in trained_bundles(o):
            manifest = Bundle(exported(path, name)).manifest
            pixels, labels = validation_images(manifest)
            answers = {}
            for which in ("fp32", name):
                model = Model(path, session=Session(precision=which), state=False)
                answers[which] = model.scores(pixels, "goodness").argmax(1)
            right = {which: float(np.mean(answer == labels)) for which, answer in answers.items()}
            yield (
                f"{name}-{manifest.training.seed}",
                {
                    "command": this_command(),
                    **described(manifest),
                    "images": len(labels),
                    "accuracy": right,
                    "loss_points": round(100 * (right["fp32"] - right[name]), 3),
                    "as_fp32": int((answers[name] == answers["fp32"]).sum()),
                    "weights_bytes": {
                        which: manifest.files[in_folder(WEIGHTS, which)].size for which in ("fp32", name)
                    },
                },
            )

    return part


def bundle_of(o: argparse.Namespace, seed: int) -> Path:
    """The bundle that part `mnist` made."""
    path: Path = o.folder / f"mnist-{seed}.ff"
    if not (path / MANIFEST).exists():
        sys.exit(f"{path}: is not there; run part mnist first")
    return path


def trained_bundles(o: argparse.Namespace) -> list[Path]:
    return [bundle_of(o, seed) for seed in range(o.seeds)]


def exported(path: Path, name: Precision = "fp32") -> Path:
    """The bundle at `path`, with graphs in that precision."""
    if in_folder("goodness.onnx", name) not in Bundle(path):
        export_onnx(path, (name,))
    return path


def validation_images(manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """All validation images that the bundle was not trained on, uint8 (N, C, H, W), and labels (N,)."""
    validation = load_for_manifest(manifest).validation
    return validation.pixels.numpy(), validation.labels.numpy()


def this_command() -> str:
    """As it was called, but for where the bundles lie."""
    return shlex.join(["python", "benchmarks/class_goodness.py", "FOLDER", *sys.argv[2:]])


PARTS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "mnist": mnist,
    "clock": clock,
    "fashion": fashion,
    "backpropagation": backpropagation,
    "time": time_to_target,
    "inference": inference,
    "weighing": weighing,
    "exit": early_exit,
    "fp16": precision("fp16"),
    "int8": precision("int8"),
}


if __name__ == "__main__":
    main()
