"""A digit never seen, taught from 1, 5, 20 and 80 examples: accuracy on it, and on the nine others."""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice, pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from continual_backprop import Backpropagation, Memory, batches
from continual_split import images

from ffruntime import told
from ffruntime.backend import in_chunks
from ffruntime.core.bundle import REPLAY
from ffruntime.core.closed_form import tell
from ffruntime.core.cost import goodness_macs
from ffruntime.core.data import Examples, to_unit_interval
from ffruntime.core.gaussians import combined
from ffruntime.core.projection import project
from ffruntime.core.statistics import KEPT_BYTES, kept_bytes, of, with_classes
from ffruntime.demo import split_mnist
from ffruntime.demo.digits import names, showing, some
from ffruntime.demo.methods import WIDTH, Covariances, Method, NearestMean, Neighbours, waves
from ffruntime.demo.split_mnist import AUGMENT, CLASS_SETTINGS
from ffruntime.demo.teach import new_digit
from ffruntime.learning.learner import Learner
from ffruntime.learning.step import Settings
from ffruntime.model import Model
from ffruntime.session import Session

Row: TypeAlias = dict[str, Any]
Portions: TypeAlias = list[Examples]
Scores: TypeAlias = Callable[[np.ndarray], np.ndarray]
IMAGE = 28 * 28
TAUGHT = (1, 5, 20, 80)
DRAWS = 20  # of examples
MEASURED = 2000  # images, for methods that take steps; the others are measured on all
GDUMB = 500  # steps


class Cost(NamedTuple):
    """What a method keeps, and the arithmetic of learning the last portions."""

    kept: int
    macs: int


class Scene(NamedTuple):
    """One network that has never seen a digit, and what it is taught and measured with."""

    model: Model
    digit: int
    draws: list[Portions]
    training: Examples  # of the nine other digits
    tested: Examples
    few: Examples  # some of `tested`


def methods(o: argparse.Namespace) -> Iterator[tuple[str, Callable[[Row], Row | None]]]:
    """Every method by its name, and what adds to its row: all draws, or the next one of methods that take steps;
    over all networks."""
    scenes = [scene_of(Model(path, session=Session(threads=1), state=False), o) for path in o.nines]
    settings = Settings(steps=2) if o.quick else Settings()
    ways: dict[str, Callable[[Scene], Row]] = {
        "class statistics (ffruntime learn)": statistics,
        "nearest class mean": nearest_mean,
        "k nearest neighbours": neighbours,
        "streaming LDA, random Fourier features": fourier,
        "streaming LDA, untrained convolutions": lambda scene: untrained(
            scene, Model(o.untrained, session=Session(threads=1), state=False)
        ),
    }
    stepped: dict[str, Callable[[Scene, int], Row]] = {
        "replay, gradients of the units (Learner, frozen=False)": functools.partial(gradients, settings=settings),
        "replay, backpropagation": functools.partial(backpropagation, settings=settings),
        "GDumb": functools.partial(gdumb, other=Model(o.untrained, state=False), steps=3 if o.quick else GDUMB),
    }
    for name, way in ways.items():
        yield name, lambda there, way=way: None if there else together([way(scene) for scene in scenes])  # type: ignore[misc]
    for name, taught in stepped.items():
        yield name, functools.partial(draw_more, taught, scenes)


def scene_of(model: Model, o: argparse.Namespace) -> Scene:
    found, digit = images("mnist", o.split, o.quick), new_digit(model.bundle)
    own, draws = showing(found.training, digit), []
    for draw in range(2 if o.quick else DRAWS):
        order = np.random.default_rng([draw, 9]).permutation(len(own))
        draws.append([own.take(order[a:b]) for a, b in pairwise((0, *TAUGHT))])
    rest = found.training.take(found.training.labels != digit)
    return Scene(model, digit, draws, rest, found.tested, some(found.tested, MEASURED))


def together(rows: list[Row]) -> Row:
    """The rows of several networks as one: draws one after the other."""
    first = rows[0]
    joined = {
        what: {n: [share for row in rows for share in row[what][n]] for n in first[what]}
        for what in ("new", "others")
    }
    before = [share for row in rows for share in row["before"]]
    return {**first, **joined, "before": before, "networks": len(rows)}


def draw_more(way: Callable[[Scene, int], Row], scenes: list[Scene], there: Row) -> Row | None:
    """A method's row with the next draw of every network beside those that are there; nothing where all are."""
    done = len(next(iter(there["new"].values()))) // len(scenes) if there else 0
    if done >= len(scenes[0].draws):
        return None
    new = together([way(scene, done) for scene in scenes])
    if not there:
        return new
    joined = {what: {n: there[what][n] + shares for n, shares in new[what].items()} for what in ("new", "others")}
    seconds = round((done * there["seconds"] + new["seconds"]) / (done + 1), 2)
    return {**new, **joined, "seconds": seconds}


class Shares:
    """Accuracy on the new digit and on the others, portion after portion."""

    def __init__(self, scene: Scene, tested: Examples, before: Scores) -> None:
        self._digit, self._tested, self.row = scene.digit, tested, Row(new={}, others={})
        self.row["before"] = [self._share(before(tested.pixels))[1]]

    def add(self, count: int, told: np.ndarray) -> None:
        """After so many examples: of every measured image the scores of all classes."""
        for what, share in zip(("new", "others"), self._share(told), strict=True):
            self.row[what].setdefault(str(count), []).append(share)

    def _share(self, told: np.ndarray) -> tuple[float, float]:
        right, new = told.argmax(1) == self._tested.labels, self._tested.labels == self._digit
        return float(right[new].mean()), float(right[~new].mean())

    def end(self, cost: Cost, seconds: float, draws: int) -> Row:
        return {
            **self.row,
            "kept": cost.kept,
            "seconds": round(seconds / draws, 2),
            "learn_gmac": round(cost.macs / 1e9, 2),
        }


def statistics(scene: Scene) -> Row:
    """The device's own way: examples count as soon as they are stored, units and readouts stay. What the network
    says of a measured image, and its features, are computed once, and put together as `Model.scores` does."""
    model, how = scene.model, scene.model.manifest.statistics
    assert how
    graph, goodness, features = in_chunks(model.graph(told.MODE), 100, 100), [], []
    for start in range(0, len(scene.tested), 1000):
        shown = to_unit_interval(scene.tested.pixels[start : start + 1000])
        found = graph({"images": shown, "labels": model.known})
        goodness.append(found["total"])
        features.append(how.project(found["features"]))
    own, x = np.concatenate(goodness), np.concatenate(features)

    def answers(now: Model) -> np.ndarray:
        return combined(own, now.known, tell(now.gaussians(), x).scores, how.weights[told.MODE], how.together)

    shares, seconds = Shares(scene, scene.tested, lambda _: answers(model)), 0.0
    for draw in scene.draws:
        with closing(Learner(model, False)) as learner:
            for count, part in zip(TAUGHT, draw, strict=True):
                start = time.process_time()
                learner.add(part.pixels, names(part))
                learner.model.gaussians()
                seconds += time.process_time() - start
                shares.add(count, answers(learner.model))
    kept = kept_bytes(how.dimension, how.together + 1) + TAUGHT[-1] * (IMAGE + how.dimension)
    macs = TAUGHT[-1] * (goodness_macs(model.manifest.network, 1) + 3 * how.dimension**2)
    return shares.end(Cost(kept, macs), seconds, len(scene.draws))


def at_once(scene: Scene, make: Callable[[], Method], x: Callable[[np.ndarray], np.ndarray], macs: int) -> Row:
    """A method that learns from features at once."""
    tested = x(scene.tested.pixels)
    shares, seconds, kept = Shares(scene, scene.tested, lambda _: make().scores(tested)), 0.0, 0
    for draw in scene.draws:
        method = make()
        for count, part in zip(TAUGHT, draw, strict=True):
            start = time.process_time()
            method.add(x(part.pixels), part.labels.astype(np.int64))
            seconds += time.process_time() - start
            shares.add(count, method.scores(tested))
        kept = method.kept
    return shares.end(Cost(kept, TAUGHT[-1] * macs), seconds, len(scene.draws))


def nearest_mean(scene: Scene) -> Row:
    training = with_classes(scene.model.bundle.statistics(), 10)
    macs = goodness_macs(scene.model.manifest.network, 1)
    return at_once(scene, lambda: NearestMean(training), scene.model.examples, macs)


def neighbours(scene: Scene) -> Row:
    """The bytes of class statistics, as features of training images, evenly over the classes."""
    stored = some(scene.training, 1000)
    x = scene.model.examples(stored.pixels)

    def make() -> Neighbours:
        method = Neighbours(10, x.shape[1], KEPT_BYTES)
        method.add(x, stored.labels.astype(np.int64))
        return method

    return at_once(scene, make, scene.model.examples, goodness_macs(scene.model.manifest.network, 1))


def fourier(scene: Scene) -> Row:
    dimension = scene.model.bundle.statistics().dimension

    def x(pixels: np.ndarray) -> np.ndarray:
        return waves(pixels, dimension, WIDTH, 0)

    training = of(x(scene.training.pixels), scene.training.labels.astype(np.int64), 10)
    return at_once(scene, lambda: Covariances(training), x, dimension * (IMAGE + dimension))


def untrained(scene: Scene, other: Model) -> Row:
    """The features of another network, that was never trained."""
    dimension = scene.model.bundle.statistics().dimension
    graph = in_chunks(other.graph(told.MODE), 100, 1)

    def x(pixels: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(pixels), 500):
            shown = {"images": to_unit_interval(pixels[start : start + 500]), "labels": np.zeros(1, np.int64)}
            parts.append(project(graph(shown)["features"], dimension, 0))
        return np.concatenate(parts)

    training = of(x(scene.training.pixels), scene.training.labels.astype(np.int64), 10)
    macs = goodness_macs(other.manifest.network, 1) + dimension**2
    return at_once(scene, lambda: Covariances(training), x, macs)


def gradients(scene: Scene, draw: int, settings: Settings) -> Row:
    """The device's updates of all units, with replay of the bundle's exemplars, by its defaults."""
    seeds = scene.model.bundle.exemplars(REPLAY)
    shares, seconds = Shares(scene, scene.few, scene.model.scores), 0.0
    with closing(Learner(scene.model, False, settings, frozen=False)) as learner:
        for count, part in zip(TAUGHT, scene.draws[draw], strict=True):
            start = time.process_time()
            learner.learn(part.pixels, names(part), now=True)
            seconds += time.process_time() - start
            shares.add(count, learner.model.scores(scene.few.pixels))
    steps = len(TAUGHT) * settings.steps * settings.batch
    cost = Cost(IMAGE * (len(seeds) + TAUGHT[-1]), 2 * steps * goodness_macs(scene.model.manifest.network, 1))
    return shares.end(cost, seconds, 1)


def backpropagation(scene: Scene, draw: int, settings: Settings) -> Row:
    """The same steps and replay by backpropagation; the new class's rows begin at zero."""
    seeds = scene.model.bundle.exemplars(REPLAY)
    shares, seconds = Shares(scene, scene.few, scene.model.scores), 0.0
    rng, memory = np.random.default_rng(draw), Memory(len(seeds) + TAUGHT[-1], draw, seeds)
    learner = Backpropagation(scene.model, {}, settings)
    learner.know([*range(10)])
    for count, part in zip(TAUGHT, scene.draws[draw], strict=True):
        start = time.process_time()
        drawn = batches(memory, part, settings, scene.model.manifest.learning.augment, rng)
        for batch in islice(drawn, settings.steps):
            learner.step(*batch)
        memory.add(part)
        seconds += time.process_time() - start
        shares.add(count, learner.scores(scene.few.pixels)[:, :10])
    return shares.end(Cost(IMAGE * (len(seeds) + TAUGHT[-1]), learner.macs), seconds, 1)


def gdumb(scene: Scene, draw: int, other: Model, steps: int) -> Row:
    """A fresh network, without batch statistics, learns what is stored after all examples, by backpropagation."""
    seeds, rng = scene.model.bundle.exemplars(REPLAY), np.random.default_rng(draw)
    shares = Shares(scene, scene.few, scene.model.scores)
    shares.row["before"] = []
    start = time.process_time()
    memory = Memory(len(seeds) + TAUGHT[-1], draw, seeds)
    for part in scene.draws[draw]:
        memory.add(part)
    learner = Backpropagation(other, split_mnist.untrained(other.manifest.network, rng), CLASS_SETTINGS)
    learner.know(range(10))
    drawn = batches(memory, Examples.none((1, 28, 28)), CLASS_SETTINGS, AUGMENT, rng)
    for step, batch in enumerate(islice(drawn, steps)):
        learner.step(*batch, min(1.0, 2 * (1 - step / steps)))
    seconds = time.process_time() - start
    shares.add(TAUGHT[-1], learner.scores(scene.few.pixels)[:, :10])
    return shares.end(Cost(IMAGE * (len(seeds) + TAUGHT[-1]), learner.macs), seconds, 1)
