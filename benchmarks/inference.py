"""Goodness of every label by ffruntime (ONNX Runtime on a processor), beside PyTorch and the classifier alone.

    python benchmarks/inference.py [cpu.ff] [--paper DIR] [--rounds 5]

They take turns in one run, on the same cores, with images of the bundle, uint8:

    goodness     ffruntime
    eager_loop   PyTorch, a pass for each label
    batched      PyTorch, all labels in one pass
    compiled     the same by torch.compile
    classifier   ffruntime's classifier: one pass without a label

of the bundle's network, and of the paper's (untrained; --paper names a bundle of it that is there already). Best
times, as ratios; the share of the measured convolution peak, fp32; and what a process of `ffruntime classify` has
resident when it exits.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from common import record
from torch import Tensor
from training import convolution_peak

from ffexport.export import export_onnx
from ffruntime.core.bundle import Bundle
from ffruntime.core.cost import unit_macs
from ffruntime.core.data import data_directory
from ffruntime.model import Model
from ffruntime.session import Session
from fftrain import network as net
from fftrain.dataset import load_dataset
from fftrain.pack import pack_run
from fftrain.recipe import load_recipe, with_epochs
from fftrain.run import start

Scores: TypeAlias = Callable[[np.ndarray], np.ndarray]  # images uint8 (N, C, H, W) -> (N, classes)

TURN = 0.3  # seconds, at least, that a contestant runs in its turn
PICTURE = Path(__file__).parents[1] / "examples" / "three.png"
CLASSIFY = """
import atexit, pathlib, sys
def resident():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    print(next(line.split()[1] for line in lines if line.startswith("VmRSS:")), file=sys.stderr)
atexit.register(resident)
from ffruntime.cli import main
main()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="cpu.ff", type=Path)
    parser.add_argument("--paper", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    o = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    memory = resident(o.model)
    with tempfile.TemporaryDirectory() as folder:
        bundles = {"bundle": o.model, "paper": o.paper or untrained("paper", Path(folder) / "paper.ff")}
        with torch.inference_mode():
            networks = {
                name: compare(Model(path, session=Session(threads=cores), state=False), o.rounds)
                for name, path in bundles.items()
            }
    record("inference", {"threads": cores, **networks, "classify_resident_mb_at_exit": round(memory / 1e6, 1)})


def untrained(recipe: str, path: Path) -> Path:
    """A bundle of a recipe's network as it is initialised, with its graphs."""
    data = load_dataset("mnist", data_directory(None))
    run = start(with_epochs(load_recipe(recipe), 0), data, 0, torch.device("cpu"), torch.float32)
    pack_run(path, run, recipe, "cpu", "fp32", {})
    export_onnx(path)
    return path


def compare(model: Model, rounds: int) -> dict[str, object]:
    """Ratios for one image and for 16 of them; of large calls fewer rounds."""
    work = 2 * sum(unit_macs(model.manifest.network)) * len(model.classes)  # FLOP for an image
    result: dict[str, object] = {"recipe": model.manifest.training.recipe_name, "gflop_per_image": work / 1e9}
    for batch, turns in ((1, rounds), (16, max(1, rounds // 2))):
        images = model.bundle.some_images()[:batch]
        contestants, compiled = ready(model, images)
        seconds, peak = side_by_side(contestants, images, turns)
        result[f"batch_{batch}"] = {
            "speed_of_goodness_over": {
                name: round(s / seconds["goodness"], 2) for name, s in seconds.items() if name != "goodness"
            },
            "share_of_convolution_peak": {
                name: round(batch * work / seconds[name] / peak, 2) for name in ("goodness", "eager_loop")
            },
            "torch_compile": compiled,
        }
    return result


def ready(model: Model, images: np.ndarray) -> tuple[dict[str, Scores], str]:
    """The contestants, called once, those that score by goodness with one result; whether torch.compile works."""
    contestants = {
        "goodness": lambda x: model.scores(x, "goodness"),
        **by_torch(model),
        "classifier": lambda x: model.scores(x, "classifier"),
    }
    compiled = "works"
    try:
        contestants["compiled"](images)
    except Exception as error:  # no C++ compiler, or a version that cannot
        compiled = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        del contestants["compiled"]
    results = {name: scores(images) for name, scores in contestants.items() if name != "classifier"}
    for scores in results.values():
        np.testing.assert_allclose(scores, results["eager_loop"], rtol=1e-4)
    return contestants, compiled


def by_torch(model: Model) -> dict[str, Scores]:
    """Goodness as fftrain computes it, the weights laid out beforehand as its convolutions want them."""
    network, weights = model.manifest.network, Bundle(model.path).weights()
    tensors = {name: laid_out(torch.from_numpy(tensor)) for name, tensor in weights.items()}
    labels = torch.arange(len(model.classes))

    def goodness(images: Tensor, tried: Tensor) -> Tensor:
        return net.total_goodness(network, tensors, net.label_goodness(network, tensors, images, tried))

    compiled = torch.compile(goodness, dynamic=False)

    def scores(images: np.ndarray, by: Callable[[Tensor], Tensor]) -> np.ndarray:
        return by(net.to_images(torch.from_numpy(images), network, torch.float32)).numpy()

    return {
        "eager_loop": lambda x: scores(x, lambda i: torch.cat([goodness(i, label[None]) for label in labels], 1)),
        "batched": lambda x: scores(x, lambda i: goodness(i, labels)),
        "compiled": lambda x: scores(x, lambda i: compiled(i, labels)),
    }


def laid_out(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def side_by_side(contestants: dict[str, Scores], images: np.ndarray, rounds: int) -> tuple[dict[str, float], float]:
    """Best seconds of a call of each, in turns, and the convolution peak, FLOP/s, which has its turn, too.

    The first call of a turn warms up and does not count.
    """
    best, peak = dict.fromkeys(contestants, float("inf")), 0.0
    for _ in range(rounds):
        peak = max(peak, convolution_peak(128, 7, 25, torch.device("cpu"), torch.float32))
        for name, scores in contestants.items():
            scores(images)
            end = time.perf_counter() + TURN
            while True:
                begun = time.perf_counter()
                scores(images)
                best[name] = min(best[name], time.perf_counter() - begun)
                if time.perf_counter() > end:
                    break
    return best, peak


def resident(model: Path) -> int:
    """Bytes that `ffruntime classify` has resident when it exits."""
    command = [sys.executable, "-c", CLASSIFY, "classify", "--shipped", "--model", str(model), str(PICTURE)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stderr.split()[-1]) * 1024


if __name__ == "__main__":
    main()
