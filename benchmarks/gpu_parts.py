"""The parts of `gpu.py`: each takes a place to work in and its deadline, and writes `gpu_PART.json`."""

from __future__ import annotations

import functools
import shutil
import signal
import statistics
import subprocess
import sys
import time
import xml.etree.ElementTree as xml
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import training
from common import record, recorded
from msgspec import structs

from ffexport.engines import EngineLimits, build_engines, missing
from ffruntime import cuda
from ffruntime.backend import provider_problem
from ffruntime.core.bundle import Bundle
from ffruntime.core.data import Examples, data_directory
from ffruntime.core.errors import BackendError, FFError
from ffruntime.core.layers import unit_parameters
from ffruntime.core.manifest import MANIFEST
from ffruntime.core.shipped import MODEL
from ffruntime.core.state import Weights
from ffruntime.golden import check
from ffruntime.model import Model
from ffruntime.session import Session
from fftrain.checkpoint import checkpoint_path, read_checkpoint
from fftrain.dataset import Dataset, load_dataset, on_device
from fftrain.epoch import epoch_batches
from fftrain.hardware import compute_exactly, find_hardware, synchronise
from fftrain.recipe import Recipe, load_recipe
from fftrain.run import Run, start
from fftrain.step import training_step
from fftrain.ways import TOGETHER, Way, one_by_one, prepare, several

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "tiny.toml"
TARGET, GOAL = 0.9916, 60.0  # the published accuracy on the MNIST test images, and the seconds to reach it in
# Ways to run the step, the safest first; on a processor those that it has.
WAYS = {
    "plain": Way(),
    "graph": Way(1),
    "graph,nchw": Way(1, channels_last=False),
    "graphs": Way(TOGETHER),
    "graphs,tuned": Way(TOGETHER, tuned=True),
    "graphs,compiled": Way(TOGETHER, "inductor"),
    "graphs,compiled,tuned": Way(TOGETHER, "inductor", tuned=True),
}
DRY_WAYS = {"plain": Way(), "nchw": Way(channels_last=False), "compiled": Way(compiled="aot_eager")}
ALIKE = {torch.float32: 1e-3, torch.bfloat16: 0.1}  # of a weight's change in a few steps, what rounding may change


class NotHere(Exception):
    """What keeps a part from running here."""


class Place(NamedTuple):
    """Where a part works, until when (of `time.monotonic`), and whether on a processor, tiny."""

    work: Path
    end: float
    dry: bool = False

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.end - time.monotonic()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command of Python's, interrupted at the deadline, as Ctrl-C does it. Its stderr is shown."""
        begun = [sys.executable, *command]
        process = subprocess.Popen(begun, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        try:
            output, _ = process.communicate(timeout=max(self.left(), 1))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            try:
                output, _ = process.communicate(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
        return subprocess.CompletedProcess(begun, process.returncode, output)


@functools.cache
def mnist(offline: bool = False) -> Dataset:
    """MNIST, or its offline sample."""
    return load_dataset("mnist", data_directory(None), offline=offline)


def require_gpu(place: Place) -> None:
    """Raises `NotHere` without a GPU, but on a processor on purpose."""
    if not place.dry and not torch.cuda.is_available():
        raise NotHere("torch finds no CUDA GPU")


def whose(place: Place) -> dict[str, Any]:
    """What a results file says of the GPU."""
    return {"gpu": "none: a dry run" if place.dry else torch.cuda.get_device_name()}


def tests(place: Place) -> None:
    """`pytest -m gpu`: how many passed, and what did not."""
    report = place.work / "tests.xml"
    asked = ["-q", "-m", "gpu", f"--junitxml={report}"]
    if place.dry:
        without = [part for name in ("cacheprovider", "hypothesispytest", "xdist") for part in ("-p", f"no:{name}")]
        pytest.main([*asked, *without, "--noconftest", str(ROOT / "tests" / "ffruntime" / "test_cuda.py")])
    else:
        place.run("-m", "pytest", "-n", "0", *asked)
    cases = list(xml.parse(report).iter("testcase"))
    said = {(one.get("name"), part.tag): part.get("message", "") for one in cases for part in one}
    record(
        "gpu_tests",
        {
            **whose(place),
            "tests": len(cases),
            "failed": {str(name): text for (name, tag), text in said.items() if tag in ("failure", "error")},
            "skipped": {str(name): text for (name, tag), text in said.items() if tag == "skipped"},
        },
    )


# --- ways to run a step


def steps(place: Place) -> None:
    """Recipe `paper` in every way, side by side; the first is what the others' results are held against."""
    require_gpu(place)
    hardware = find_hardware("cpu" if place.dry else "cuda")
    device, dtype = torch.device(hardware.device), hardware.dtype
    recipe, rounds = (small(load_recipe("paper")), 1) if place.dry else (load_recipe("paper"), 8)
    data = mnist(place.dry)
    count = recipe.schedule.batch * (4 if place.dry else TOGETHER)
    data = structs.replace(data, train=Examples(data.train.pixels[:count], data.train.labels[:count]))
    work = training.flop_per_image(data, recipe) * recipe.schedule.batch
    width = recipe.network.units[1].ops[0].out  # type: ignore[union-attr]
    found: dict[str, Any] = {
        **whose(place),
        "recipe": "paper",
        "precision": hardware.precision,
        "gflop_of_a_step": round(work / 1e9, 1),
        "product_peak_tflops": round(product_peak(device, dtype, 64 if place.dry else 8192) / 1e12, 2),
        "convolution_peak_tflops": round(
            training.convolution_peak(width, 7, recipe.schedule.batch, device, dtype) / 1e12, 2
        ),
        "ways": {},
    }
    compute_exactly()
    reference = None
    ways = DRY_WAYS if place.dry else WAYS
    for name, way in ways.items():
        if place.left() < 10:
            found["ways"][name] = {"failed": "no time was left"}
            continue
        try:
            seconds, run = timed_way(recipe, data, device, dtype, way, rounds)
            reference = reference or run
            row: dict[str, Any] = {
                "ms": round(1e3 * seconds, 4),
                "share_of_product_peak": round(work / seconds / 1e12 / found["product_peak_tflops"], 3),
                "differs_from_plain": round(difference(run, reference, data), 5),
            }
            row["alike"] = row["differs_from_plain"] <= ALIKE[dtype]
        except Exception as error:  # whatever a compiler or a driver says: the other ways are measured all the same
            row = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        found["ways"][name] = row
        good = {name: row["ms"] for name, row in found["ways"].items() if row.get("alike")}
        if good:
            found["chosen"] = min(good, key=lambda one: good[one])
            found["hours_of_paper"] = round(good[found["chosen"]] / 1e3 * 200_000 / 3600, 3)
        record("gpu_steps", found)


def small(recipe: Recipe) -> Recipe:
    """A recipe with convolutions of four filters, for a processor."""
    units = tuple(
        structs.replace(unit, ops=(structs.replace(unit.ops[0], out=4, kernel=3, padding=1), *unit.ops[1:]))
        for unit in recipe.network.units
    )
    network = structs.replace(recipe.network, units=units)
    return structs.replace(recipe, network=network, schedule=structs.replace(recipe.schedule, batch=4))


def timed_way(
    recipe: Recipe, data: Dataset, device: torch.device, dtype: torch.dtype, way: Way, rounds: int
) -> tuple[float, Run]:
    """Seconds of a step, and the run after the first steps. All ways take the same batches."""
    prepare(way)
    run = start(recipe, data, 0, device, dtype, way)
    batches = list(epoch_batches(on_device(data.train, device), recipe, 0, 0, skip=0))
    step = several(training_step, way.graph) if way.graph else one_by_one(training_step)
    size, hard = max(way.graph, 1), torch.zeros((), device=device)
    groups = [batches[k : k + size] for k in range(0, len(batches), size)]
    for batch in batches[:TOGETHER]:  # one by one: what is compiled and captured is, and all ways do the same
        step(run, [batch], hard)
    synchronise(device)
    for group in groups:
        step(run, group, hard)
    kept = structs.replace(run, tensors={name: tensor.clone() for name, tensor in run.tensors.items()})
    best = float("inf")
    for _ in range(rounds):
        synchronise(device)
        begun = time.perf_counter()
        for group in groups:
            step(run, group, hard)
        synchronise(device)
        best = min(best, (time.perf_counter() - begun) / len(batches))
    return best, kept


def difference(run: Run, reference: Run, data: Dataset) -> float:
    """By how much weights went elsewhere than in the `reference`, as a share of how far those went."""
    first = start(run.recipe, data, 0, run.device, run.dtype)
    names = [name for name, tensor in first.tensors.items() if not torch.equal(tensor, reference.tensors[name])]
    apart = sum(float((run.tensors[name] - reference.tensors[name]).square().sum()) for name in names)
    went = sum(float((reference.tensors[name] - first.tensors[name]).square().sum()) for name in names)
    return float((apart / went) ** 0.5)


def product_peak(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """The best FLOP/s of a product of two random matrices here."""
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(5):
        synchronise(device)
        begun = time.perf_counter()
        for _ in range(4):
            a @ b
        synchronise(device)
        best = min(best, (time.perf_counter() - begun) / 4)
    return 2 * size**3 / best


# --- trainings, as a user types them


def trained(place: Place, name: str, *arguments: str, way: str = "auto") -> dict[str, Any]:
    """A training that ends, or goes on at the next call: its figures, or how far it is. Dry, one is for all."""
    path = place.work / f"{'dry' if place.dry else name}.ff"
    given = [*arguments, "--step", way, "--device", "cuda"]
    if place.dry:
        given = ["mnist", "--offline", "--recipe", str(TINY), "--steps", "2", "--device", "cpu"]
        given += ["--set", "network.units.*.ops.0.out=4"]
    if not (path / MANIFEST).exists():
        again = ["--resume"] if checkpoint_path(path).exists() else []
        command = [*given, "--out", str(path), *again]
        if place.dry:
            from fftrain.cli import cli

            cli.main(command, standalone_mode=False)
        else:
            place.run("-m", "fftrain", *command)
    if not (path / MANIFEST).exists():
        if not checkpoint_path(path).exists():
            raise NotHere(f"fftrain {' '.join(arguments)} did not begin: see above")
        progress = read_checkpoint(checkpoint_path(path))[1]
        last = progress.history[-1] if progress.history else {}
        return {"finished": False, "epochs": progress.epoch, "seconds": round(progress.seconds, 1), "last": last}
    done = Bundle(path).manifest.training
    return {
        "finished": True,
        "command": f"fftrain {' '.join(arguments)}",
        "epochs": done.epochs,
        "seconds": round(done.seconds, 1),
        "device": done.device,
        "precision": done.precision,
        "step": way,
        "accuracy": Bundle(path).manifest.accuracy,
    }


def paper(place: Place) -> None:
    """The paper's best network, by the fastest way that part `steps` found."""
    require_gpu(place)
    found = recorded("gpu_steps")
    way = found.get("chosen", "auto") if not place.dry else "auto"
    if "hours_of_paper" in found:
        print(f"paper: its 200,000 steps take about {3600 * found['hours_of_paper']:.0f} s in all", flush=True)
    row = trained(place, "paper", "mnist", "--recipe", "paper", way=way)
    if row["finished"] and not place.dry and "gflop_of_a_step" in found:
        tflops = found["gflop_of_a_step"] * 200_000 / 1e3 / row["seconds"]
        row["share_of_product_peak"] = round(tflops / found["product_peak_tflops"], 3)
    published = {"validation": {"goodness": 0.9920, "classifier": 0.9914}}
    published["test"] = {"goodness": 0.9916, "classifier": 0.9900}
    record("gpu_paper", {**whose(place), "published": published, **row})


def one_training(name: str, *arguments: str) -> Callable[[Place], None]:
    """A part that is one training."""

    def part(place: Place) -> None:
        require_gpu(place)
        record(f"gpu_{name}", {**whose(place), **trained(place, name, *arguments)})

    return part


def time_to_accuracy(place: Place) -> None:
    """Recipe `gpu`, seed after seed, as long as there is time."""
    require_gpu(place)
    rows: list[dict[str, Any]] = []
    for seed in range(1 if place.dry else 3):
        if rows and place.left() < 1.2 * rows[-1]["seconds"]:
            break
        row = trained(place, f"time-{seed}", "mnist", "--recipe", "gpu", "--seed", str(seed))
        if not row["finished"]:
            break
        reached = max(row["accuracy"]["test"].values()) >= TARGET
        rows.append({"seed": seed, "reached": reached, "share_of_goal": round(row["seconds"] / GOAL, 3), **row})
        record("gpu_time", {**whose(place), "target": TARGET, "goal_seconds": GOAL, "runs": rows})


def training_benchmark(place: Place) -> None:
    """`training.py` on this GPU, by its own file."""
    require_gpu(place)
    given = ["--name", "gpu_training"]
    if place.dry:
        tiny = {"device": "cpu", "width": 4, "kernel": 3, "batch": 2, "steps": 1, "rounds": 1}
        training.main([*given, *(word for name, value in tiny.items() for word in (f"--{name}", str(value)))])
        return
    done = place.run("benchmarks/training.py", *given, "--device", "cuda", "--steps", "40")
    if done.returncode:
        raise FFError(f"training.py ended with {done.returncode}: see above")


# --- inference engines


def onnxruntime(place: Place) -> None:
    """The shipped model by CUDA's provider beside the processor's."""
    backend = "onnxruntime-cpu" if place.dry else "onnxruntime-cuda"
    if problem := provider_problem(backend):
        raise NotHere(problem)
    try:
        Model(MODEL, session=Session(backend), state=False).graph("goodness")
    except BackendError as error:  # there, and it does not start
        raise NotHere(str(error)) from error
    images = mnist(place.dry).validation.pixels.numpy()
    found = beside_the_cpu(backend, MODEL, images[:50] if place.dry else images)
    record("gpu_onnxruntime", {**whose(place), **found})


def beside_the_cpu(backend: str, path: Path, images: np.ndarray) -> dict[str, Any]:
    """Golden errors, decisions on images uint8 (N, C, H, W) and the time of one, by a backend and by the CPU's."""
    here, there = Model(path, state=False), Model(path, session=Session(backend), state=False)
    golden: dict[str, float] = {}
    for row in check(there):
        golden[row.graph] = max(golden.get(row.graph, 0.0), row.relative)
    ours, theirs = here.scores(images), there.scores(images)
    return {
        "backend": backend,
        "golden_errors": golden,
        "golden_passed": all(row.passed for row in check(there)),
        "images": len(images),
        "equal_decisions": int((ours.argmax(1) == theirs.argmax(1)).sum()),
        "largest_score_difference": float(np.abs(ours - theirs).max()),
        "ms_of_an_image": {"cpu": latency(here, images), "gpu": latency(there, images)},
        "images_per_second_in_calls_of_64": {"cpu": rate(here, images), "gpu": rate(there, images)},
    }


def latency(model: Model, images: np.ndarray) -> float:
    """Median milliseconds of a call of one image."""
    times = []
    for image in images[:50]:
        begun = time.perf_counter()
        model.scores(image[None])
        times.append(time.perf_counter() - begun)
    return round(1e3 * statistics.median(times), 4)


def rate(model: Model, images: np.ndarray) -> int:
    """Images a second, many in a call."""
    some = images[:1000]
    begun = time.perf_counter()
    model.scores(some)
    return round(len(some) / (time.perf_counter() - begun))


def engines(library: Any) -> Callable[[Place], None]:
    """A part that builds a library's engines, runs them and gives them other weights."""

    def part(place: Place) -> None:
        if problems := missing(library):
            raise NotHere("; ".join(problems))
        source = ROOT / "tests" / "fixtures" / "classes.ff" if place.dry else MODEL
        path = place.work / library / "model.ff"
        shutil.rmtree(path.parent, ignore_errors=True)
        shutil.copytree(source, path)
        found: dict[str, Any] = {"library": library, **(whose(place) if place.dry or not cuda.missing() else {})}
        begun = time.monotonic()
        few = EngineLimits(batch=4, labels=12, workspace_mib=64)
        rows = build_engines(path, library, None, "fp16", few) if place.dry else build_engines(path, library)
        found["seconds_of_building"] = round(time.monotonic() - begun, 1)
        found["engines"] = {row.artefact: {"bytes": row.size, "verdict": row.verdict} for row in rows}
        record(f"gpu_{library}", found)
        if problem := cuda.missing():
            print(f"{library}: built, not run: {problem}")
            return
        images = mnist().validation.pixels.numpy()
        try:
            found["running"] = beside_the_cpu(library, path, images)
            found["other_weights"] = refitted(library, path, images[:1000])
        except FFError as error:
            found["refused"] = str(error)
        record(f"gpu_{library}", found)

    return part


def refitted(library: str, path: Path, images: np.ndarray) -> dict[str, Any]:
    """An engine with other weights beside ONNX Runtime with the same: it proves itself as it is made, too."""
    bundle, rng = Bundle(path), np.random.default_rng(0)
    own = {tensor.name: bundle.weights()[tensor.name] for tensor in unit_parameters(bundle.manifest.network, 1)}
    changed = {name: t * (1 + 0.02 * rng.standard_normal(t.shape, np.float32)) for name, t in own.items()}
    learned = Weights(changed, bundle.manifest.classes, alone=True)
    begun = time.monotonic()
    there = Model(path, learned, Session(library)).scores(images)
    here, before = Model(path, learned).scores(images), Model(path, state=False).scores(images)
    return {
        "seconds": round(time.monotonic() - begun, 2),
        "images": len(images),
        "equal_decisions": int((here.argmax(1) == there.argmax(1)).sum()),
        "largest_score_difference": float(np.abs(here - there).max()),
        "largest_score_change": float(np.abs(here - before).max()),
    }


RUN: dict[str, Callable[[Place], None]] = {
    "tests": tests,
    "steps": steps,
    "paper": paper,
    "training": training_benchmark,
    "time": time_to_accuracy,
    "fashion": one_training("fashion", "fashion-mnist", "--recipe", "class", "--minutes", "2"),
    "cifar": one_training("cifar", "cifar10", "--recipe", "class", "--minutes", "2"),
    "onnxruntime": onnxruntime,
    "jitter": one_training("jitter", "mnist", "--recipe", "hinton-mlp-jitter"),
    "tensorrt-rtx": engines("tensorrt-rtx"),
    "tensorrt": engines("tensorrt"),
}
