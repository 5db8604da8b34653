"""Split-MNIST and Split-Fashion-MNIST in one pass: five tasks of two classes, one ten-way answer, 400 kB kept.

Gradient methods take the demonstration's protocol (docs/demo.md) with half its steps: 500 images stored, a step for
every 128 images that arrive, 100 steps after each task. Those that learn from features at once meet every image
once, in any order.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from continual_backprop import Backpropagation, Memory, batches
from msgspec import structs

from ffruntime.backend import in_chunks
from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.cost import goodness_macs
from ffruntime.core.data import IDX_FOLDERS, SPLIT, Examples, data_directory, read_idx_examples, to_unit_interval
from ffruntime.core.layers import statistics_features
from ffruntime.core.projection import project
from ffruntime.core.state import Weights
from ffruntime.core.statistics import KEPT_BYTES, Moment, default_dimension, encode, none
from ffruntime.demo import split_mnist
from ffruntime.demo.digits import DIGITS, showing
from ffruntime.demo.methods import (
    CELLS,
    DIRECTIONS,
    WIDTH,
    Covariances,
    Method,
    NearestMean,
    Neighbours,
    edges,
    in_parts,
    waves,
)
from ffruntime.demo.split_mnist import AUGMENT, CLASS_SETTINGS, QUICK, TASKS, SplitPlan
from ffruntime.learning.learner import Learner
from ffruntime.model import Model
from ffruntime.session import Session

Row: TypeAlias = dict[str, Any]
IMAGE = 28 * 28  # bytes
# Half the demonstration's steps: 128 images arrive together, 100 steps at rest after each task.
PLAN = SplitPlan(arriving=128, rehearsal=100, gdumb=500, goodness=500)
CLASSES = 10
EDGE_MACS = 25 * IMAGE * DIRECTIONS
EACH, SHARED = (
    f"class statistics, {what}, edges (Learner)" for what in ("a covariance of each class", "one covariance")
)


class Images(NamedTuple):
    """What is learned from and what is measured on."""

    training: Examples
    tested: Examples


def images(name: str, split: str, quick: bool = False) -> Images:
    """A data set without its validation images, and these or its test images."""
    folder = data_directory(None) / IDX_FOLDERS[name]
    whole = read_idx_examples(folder, "train")
    learned, held_back = SPLIT.places(len(whole))
    tested = whole.take(held_back) if split == "validation" else read_idx_examples(folder, "t10k")
    found = Images(whole.take(learned), tested)
    return (
        Images(*(part.take(slice(count)) for part, count in zip(found, (600, 200), strict=True)))
        if quick
        else found
    )


def methods(o: argparse.Namespace, data: str) -> Iterator[tuple[str, Callable[[Row], Row | None]]]:
    """Every method by its name, and what runs its next seed."""
    found = images(data, o.split, o.quick)
    model = Model(o.untrained, session=Session(threads=1), state=False)
    plan = structs.replace(QUICK, per_task=64, gdumb=2, rehearsal=1) if o.quick else PLAN
    units = functools.lru_cache(maxsize=o.seeds)(functools.partial(of_units, model, found))
    shared, of_network = (
        default_dimension(n, CLASSES) for n in (10**6, statistics_features(model.manifest.network))
    )
    each = default_dimension(10**6, CLASSES, KEPT_BYTES, "each")
    net = goodness_macs(model.manifest.network, 1)
    edge = functools.lru_cache(maxsize=1)(lambda: [edges(part.pixels) for part in found])

    def at_once(
        make: Callable[[int], Method], x: Callable[[int], list[np.ndarray]], macs: int
    ) -> Callable[[int], Row]:
        return lambda seed: at_once_row(make, x, found, seed, macs)

    def of_edges(dimension: int) -> Callable[[int], list[np.ndarray]]:
        return lambda seed: [in_parts(part, min(dimension, DIRECTIONS * CELLS**2), seed) for part in edge()]

    def fourier(seed: int) -> list[np.ndarray]:
        return [waves(part.pixels, shared, WIDTH, seed) for part in found]

    flat = min(shared, DIRECTIONS * CELLS**2)
    transform = 10**4  # of the projection: additions of a Hadamard transform, counted as if they were multiplied
    ways: dict[str, Callable[[int], Row]] = {
        EACH: lambda seed: of_device(of_recipe(data, "each", o.work, o.quick), found, o.work, seed, transform),
        SHARED: lambda seed: of_device(of_recipe(data, "shared", o.work, o.quick), found, o.work, seed, transform),
        "class statistics, one covariance, edges": at_once(
            lambda _: Covariances(none(CLASSES, flat)), of_edges(flat), EDGE_MACS + transform + flat**2
        ),
        "class statistics, one covariance, untrained units": at_once(
            lambda _: Covariances(none(CLASSES, of_network)), units, net + transform + of_network**2
        ),
        "nearest class mean, untrained units": at_once(
            lambda _: NearestMean(none(CLASSES, of_network)), units, net + transform + CLASSES * of_network
        ),
        "nearest class mean, edges": at_once(
            lambda _: NearestMean(none(CLASSES, flat)), of_edges(flat), EDGE_MACS + CLASSES * flat
        ),
        "k nearest neighbours, edges": at_once(
            lambda seed: Neighbours(CLASSES, each, KEPT_BYTES, seed=seed), of_edges(each), EDGE_MACS + KEPT_BYTES
        ),
        "streaming LDA, random Fourier features": at_once(
            lambda _: Covariances(none(CLASSES, shared)), fourier, (IMAGE + shared) * shared
        ),
        "GDumb": lambda seed: gdumb(model, *found, plan, seed),
        "replay, backpropagation": lambda seed: backpropagation(model, *found, plan, seed),
        "replay, gradients of the units (Stream)": lambda seed: replay(model, *found, plan, seed),
    }
    for name, way in ways.items():
        yield name, functools.partial(seed_more, way, 1 if o.quick else o.seeds)


def seed_more(way: Callable[[int], Row], seeds: int, there: Row) -> Row | None:
    """A method's row with the next seed beside those that are there; nothing where all are."""
    seed = len(there.get("accuracy", ()))
    if seed >= seeds:
        return None
    new = way(seed)
    seconds = (seed * there.get("seconds", 0.0) + new["seconds"]) / (seed + 1)
    accuracy = [*there.get("accuracy", ()), *new["accuracy"]]
    return {**new, "accuracy": accuracy, "seconds": round(seconds, 1)}


def at_once_row(
    make: Callable[[int], Method],
    features: Callable[[int], list[np.ndarray]],
    found: Images,
    seed: int,
    answer: int,
) -> Row:
    """A method that learns from features at once: task after task, in the order of the tasks."""
    start, method = time.process_time(), make(seed)
    x, tested = features(seed)
    for task in TASKS:
        own = np.isin(found.training.labels, task)
        method.add(x[own], found.training.labels[own].astype(np.int64))
    right = method.scores(tested).argmax(1) == found.tested.labels
    accuracy = float(np.mean([right[np.isin(found.tested.labels, task)].mean() for task in TASKS]))
    seconds = time.process_time() - start
    return row(accuracy, method.kept, seconds, answer * len(found.training), answer)


def of_recipe(data: str, moment: Moment, work: Path, quick: bool) -> Path:
    """The bundle of recipe `edges`, with a second moment of each class or a shared one, which knows the names of
    ten classes and no more; made where there is none. How its statistics answer was chosen on validation images."""
    learned = "sample" if quick else data
    path = work / (f"edges-{learned}.ff" if moment == "each" else f"edges-shared-{learned}.ff")
    if not (path / "goodness.onnx").exists():
        settings = ["patterns.spare=0", "statistics.counted=false", f"statistics.moment={moment}"]
        options = ["--recipe", "edges", *(part for one in settings for part in ("--set", one)), "--force"]
        source = ["mnist", "--offline"] if quick else [data]
        for command in (["fftrain", *source, *options, "--out", str(path)], ["ffexport", "--model", str(path)]):
            subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True)
    return path


def of_device(bundle: Path, found: Images, work: Path, seed: int, transform: int) -> Row:
    """The device's own learner, task after task, in memory; no picture stays. `seed`: of the projection."""
    start, there = time.process_time(), Bundle(bundle)
    how = there.manifest.statistics
    assert how
    how = structs.replace(how, seed=seed)
    copy = Path(shutil.copytree(bundle, work / f"{bundle.stem}-{seed}.ff", dirs_exist_ok=True))
    of_seed = write_bundle(copy, structs.replace(there.manifest, statistics=how), {})
    model = Model(of_seed, session=Session(threads=1), state=False)
    with contextlib.closing(Learner(model, False, replay_bytes=0, seeded=False)) as learner:
        for task in TASKS:
            own = showing(found.training, *task)
            for first in range(0, len(own), PLAN.arriving):
                new = own.take(slice(first, first + PLAN.arriving))
                learner.learn(new.pixels, [model.classes[label] for label in new.labels])
        assert learner.counted
        assert learner.counted.snapshot().counts.sum() == len(found.training)  # and nothing else is stored
        kept = len(encode(learner.counted.snapshot(), how.origin(there.units_hash)))
        accuracy = mean_of_tasks(learner.model.scores, found.tested)
    products = how.dimension**2 * (CLASSES if how.moment == "each" else 1)
    answer = goodness_macs(model.manifest.network, 1) + transform + products
    return row(accuracy, kept, time.process_time() - start, answer * len(found.training), answer)


def of_units(model: Model, found: Images, seed: int) -> list[np.ndarray]:
    """Features of the network's units, untrained, of weights that the seed draws, projected: int8 (N, d) each."""
    network, rng = model.manifest.network, np.random.default_rng([seed, 1])
    drawn = {n: t for n, t in split_mnist.untrained(network, rng).items() if n.startswith("unit")}
    graph = model.with_weights(Weights(drawn, DIGITS)).graph("goodness")
    dimension = default_dimension(statistics_features(network), CLASSES)
    parts = []
    for part in found:
        rows = []
        for start in range(0, len(part), 500):
            shown = {"images": to_unit_interval(part.pixels[start : start + 500]), "labels": np.zeros(1, np.int64)}
            rows.append(project(in_chunks(graph, 100, 1)(shown)["features"], dimension, seed))
        parts.append(np.concatenate(rows))
    return parts


def row(accuracy: float, kept: int, seconds: float, learn: int, answer: int) -> Row:
    """What is recorded of a method's seed: accuracy, bytes kept, processor seconds, the arithmetic of learning from
    all that arrives, and of one answer."""
    return {
        "accuracy": [accuracy],
        "kept": kept,
        "seconds": seconds,
        "learn_gmac": round(learn / 1e9, 1),
        "answer_mmac": round(answer / 1e6, 2),
    }


def replay(model: Model, training: Examples, tested: Examples, plan: SplitPlan, seed: int) -> Row:
    """The device's own steps, with replay and rehearsal: the first method of the demonstration's scene."""
    start = time.process_time()
    runs = split_mnist.run(model, training, tested, plan, seed, lambda: None)
    _, found = next(runs)
    runs.close()  # type: ignore[attr-defined]
    macs = goodness_macs(model.manifest.network, 1)
    learned = 2 * macs * found.steps * CLASS_SETTINGS.batch  # a pass, and the gradients of weights
    return row(found.acc, plan.stored * IMAGE, time.process_time() - start, learned, macs)


def backpropagation(model: Model, training: Examples, tested: Examples, plan: SplitPlan, seed: int) -> Row:
    """The same network, stream, store and steps, by backpropagation."""
    start = time.process_time()
    order, rng = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    learner = Backpropagation(model, split_mnist.untrained(model.manifest.network, rng), CLASS_SETTINGS)
    memory = Memory(plan.stored, seed)
    for task in TASKS:
        learner.know(task)
        own = order.permutation(np.flatnonzero(np.isin(training.labels, task)))[: plan.per_task]
        for first in range(0, len(own), plan.arriving):
            new = training.take(own[first : first + plan.arriving])
            learner.step(*next(batches(memory, new, CLASS_SETTINGS, AUGMENT, rng)), plan.stream_rate)
            memory.add(new)
        rehearse(learner, memory, plan.rehearsal, rng)
    return _learned_row(model, learner, tested, plan, start)


def gdumb(model: Model, training: Examples, tested: Examples, plan: SplitPlan, seed: int) -> Row:
    """GDumb (Prabhu et al. 2020): a fresh network of the same kind learns, by backpropagation, only what is stored
    in the end."""
    start = time.process_time()
    rng, memory = np.random.default_rng([seed, 1]), Memory(plan.stored, seed)
    memory.add(training)
    learner = Backpropagation(model, split_mnist.untrained(model.manifest.network, rng), CLASS_SETTINGS)
    learner.know(range(10))
    rehearse(learner, memory, plan.gdumb, rng)
    return _learned_row(model, learner, tested, plan, start)


def _learned_row(model: Model, learner: Backpropagation, tested: Examples, plan: SplitPlan, start: float) -> Row:
    accuracy, answer = mean_of_tasks(learner.scores, tested), goodness_macs(model.manifest.network, 1)
    return row(accuracy, plan.stored * IMAGE, time.process_time() - start, learner.macs, answer)


def rehearse(learner: Backpropagation, memory: Memory, steps: int, rng: np.random.Generator) -> None:
    """So many steps on what is stored, at rates that fall to 0 over the second half."""
    drawn = batches(memory, Examples.none((1, 28, 28)), CLASS_SETTINGS, AUGMENT, rng)
    for step, batch in enumerate(islice(drawn, steps)):
        learner.step(*batch, min(1.0, 2 * (1 - step / steps)))


def mean_of_tasks(scores: Callable[[np.ndarray], np.ndarray], tested: Examples) -> float:
    """ACC: the mean over the tasks of the accuracy in the end, one answer of ten."""
    found = []
    for task in TASKS:
        some = showing(tested, *task)
        found.append(float((scores(some.pixels)[:, :10].argmax(1) == some.labels).mean()))
    return float(np.mean(found))
