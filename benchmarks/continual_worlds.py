"""Changed worlds: what 320 labelled images of a world bring there, and what they cost in the old one. A seed draws
which images arrive."""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from continual_backprop import Backpropagation, Memory, batches
from continual_split import images
from msgspec import structs

from ffruntime.core.bundle import REPLAY
from ffruntime.core.cost import goodness_macs
from ffruntime.core.data import Examples
from ffruntime.core.statistics import KEPT_BYTES, kept_bytes, none, of
from ffruntime.demo.digits import names, some
from ffruntime.demo.methods import WIDTH, Covariances, Method, NearestMean, Neighbours, waves
from ffruntime.demo.worlds import WORLDS, change, renormalised
from ffruntime.learning.learner import Learner
from ffruntime.learning.step import Settings
from ffruntime.model import Model
from ffruntime.session import Session

Row: TypeAlias = dict[str, Any]
Scores: TypeAlias = Callable[[np.ndarray], np.ndarray]  # images uint8 -> (N, classes)
IMAGE = 28 * 28
LEARNED, PORTION = 320, 64  # labelled images of a world, and how many arrive at a time
REHEARSAL = 100  # steps at rest
SETTINGS = Settings(fresh=0.5, lr=2e-3)  # of steps that teach units: chosen on validation images
MEASURED = 500


class World(NamedTuple):
    """What arrives in a world, and what is measured: changed images, and the same as they were."""

    name: str
    seed: int
    arrives: Examples
    new: Examples
    old: Examples


class Learned(NamedTuple):
    """What a method has become, what it keeps, and the arithmetic that it took."""

    scores: Scores
    kept: int
    macs: int
    before: float = 0.0  # processor seconds that another method has taken for it


def methods(o: argparse.Namespace) -> Iterator[tuple[str, Callable[[Row], Row | None]]]:
    """Every method by its name, and what runs its next seed."""
    found = images("mnist", o.split, o.quick)
    model = Model(o.model, session=Session(threads=1), state=False)
    settings = structs.replace(SETTINGS, steps=2) if o.quick else SETTINGS
    rehearsal = 2 if o.quick else REHEARSAL
    seeds, net = model.bundle.exemplars(REPLAY), goodness_macs(model.manifest.network, 1)
    training = model.bundle.statistics()
    stored = IMAGE * (len(seeds) + LEARNED)
    stepped = 2 * net * settings.batch * (-(-LEARNED // PORTION) * settings.steps + rehearsal)

    def nothing(_: World) -> Learned:
        return Learned(model.scores, 0, 0)

    def normalisation(world: World) -> Learned:
        return Learned(renormal(world).scores, 0, net * len(world.arrives))

    def renormal(world: World) -> Model:
        tensors = {**model.weights.tensors, **renormalised(model, world.arrives.pixels)}
        return model.with_weights(structs.replace(model.weights, tensors=tensors))

    def statistics(world: World) -> Learned:
        with closing(Learner(model, False)) as learner:
            for part in portions(world.arrives):
                learner.add(part.pixels, names(part))
            d = training.dimension
            return Learned(learner.model.scores, kept_bytes(d, 10) + (IMAGE + d) * LEARNED, net * LEARNED)

    made: dict[tuple[str, int], tuple[Model, float]] = {}  # by gradients alone: two methods go on from them

    def gradients(world: World, first: bool = False) -> Learned:
        start = time.process_time()
        with closing(Learner(model, False, settings, tolerance=1.0, frozen=False)) as learner:
            if first:
                now, tensors = learner.refresh(), renormalised(model, world.arrives.pixels)
                learner.store.adopt(now.version, "applied", {**now.weights.tensors, **tensors}, ())
            for part in portions(world.arrives):
                learner.learn(part.pixels, names(part), now=True)
            learner.rehearse(rehearsal)
            if not first:
                made[world.name, world.seed] = learner.model, time.process_time() - start
            return Learned(learner.model.scores, stored, stepped)

    def anew(world: World) -> Learned:
        if (world.name, world.seed) not in made:
            gradients(world)
        seeing, before = made[world.name, world.seed]
        method = Covariances(none(10, training.dimension))
        for part in (seeds, world.arrives):
            method.add(seeing.examples(part.pixels), part.labels.astype(np.int64))
        macs = stepped + net * (len(seeds) + LEARNED)
        return Learned(lambda pixels: method.scores(seeing.examples(pixels)), stored + method.kept, macs, before)

    def at_once(method: Method, x: Callable[[np.ndarray], np.ndarray], macs: int, world: World) -> Learned:
        method.add(x(world.arrives.pixels), world.arrives.labels.astype(np.int64))
        return Learned(lambda pixels: method.scores(x(pixels)), method.kept, macs * LEARNED)

    def neighbours(world: World) -> Learned:
        near = Neighbours(10, training.dimension, KEPT_BYTES)
        before = some(found.training, 100 if o.quick else 600)
        near.add(model.examples(before.pixels), before.labels.astype(np.int64))
        return at_once(near, model.examples, net, world)

    def fourier(world: World) -> Learned:
        d = training.dimension
        before = of(waves(found.training.pixels, d, WIDTH, 0), found.training.labels.astype(np.int64), 10)
        return at_once(Covariances(before), lambda pixels: waves(pixels, d, WIDTH, 0), d * (IMAGE + d), world)

    def backpropagation(world: World) -> Learned:
        assert model.manifest.learning
        learner, rng = Backpropagation(model, {}, settings), np.random.default_rng(world.seed)
        memory, changed = Memory(len(seeds) + LEARNED, world.seed, seeds), model.manifest.learning.augment
        arriving = [(part, settings.steps) for part in portions(world.arrives)]
        for part, steps in [*arriving, (Examples.none((1, 28, 28)), rehearsal)]:
            for batch in islice(batches(memory, part, settings, changed, rng), steps):
                learner.step(*batch)
            memory.add(part)
        return Learned(lambda pixels: learner.scores(pixels)[:, :10], stored, learner.macs)

    ways: Mapping[str, Callable[[World], Learned]] = {
        "nothing learned": nothing,
        "normalisation statistics alone, 320 images without labels": normalisation,
        "class statistics beside goodness (ffruntime learn)": statistics,
        "gradients of the units, replay (Learner, frozen=False)": gradients,
        "normalisation statistics, then gradients of the units": lambda world: gradients(world, first=True),
        "gradients of the units, then class statistics anew": anew,
        "class statistics alone, goodness left out": lambda world: at_once(
            Covariances(training), model.examples, net, world
        ),
        "nearest class mean": lambda world: at_once(NearestMean(training), model.examples, net, world),
        "k nearest neighbours": neighbours,
        "streaming LDA, random Fourier features": fourier,
        "backpropagation, the same replay": backpropagation,
    }

    @functools.lru_cache(maxsize=o.seeds)
    def worlds(seed: int) -> list[World]:
        return [world_of(name, seed, found.training, found.tested) for name in WORLDS]

    for name, way in ways.items():
        yield name, functools.partial(seed_more, lambda seed, way=way: measured(way, worlds(seed)), o.seeds)


def seed_more(way: Callable[[int], Row], seeds: int, there: Row) -> Row | None:
    """A method's row with the next seed beside those that are there; nothing where all are."""
    seed = len(there["mean"]) if there else 0
    if seed >= seeds:
        return None
    new = way(seed)
    if not there:
        return new
    accuracy = {
        world: {what: there["accuracy"][world][what] + shares for what, shares in found.items()}
        for world, found in new["accuracy"].items()
    }
    summed = {what: there[what] + new[what] for what in ("mean", "worst", "old")}
    seconds = round((seed * there["seconds"] + new["seconds"]) / (seed + 1), 1)
    return {**new, "accuracy": accuracy, **summed, "seconds": seconds}


def world_of(name: str, seed: int, training: Examples, tested: Examples) -> World:
    """A world's images: those that arrive are drawn as the demonstration draws them."""
    order = np.random.default_rng([seed, *map(ord, name)]).permutation(len(training))[:LEARNED]
    taken, old = training.take(order), some(tested, MEASURED)
    return World(
        name,
        seed,
        Examples(change(name, taken.pixels), taken.labels),
        Examples(change(name, old.pixels), old.labels),
        old,
    )


def portions(arrives: Examples) -> list[Examples]:
    """What arrives, in its order."""
    return [arrives.take(slice(first, first + PORTION)) for first in range(0, len(arrives), PORTION)]


def measured(way: Callable[[World], Learned], worlds: Sequence[World]) -> Row:
    """A method in every world, with one seed: accuracy there and in the old one, what is kept, processor seconds of
    learning in a world, and its arithmetic."""
    accuracies, seconds = {}, 0.0
    for world in worlds:
        start = time.process_time()
        learned = way(world)
        seconds += time.process_time() - start + learned.before
        new, old = (
            float((learned.scores(part.pixels).argmax(1) == part.labels).mean()) for part in (world.new, world.old)
        )
        accuracies[world.name] = {"new": [new], "old": [old]}
    there, before = ([one[what][0] for one in accuracies.values()] for what in ("new", "old"))
    return {
        "accuracy": accuracies,
        "mean": [float(np.mean(there))],
        "worst": [min(there)],
        "old": [float(np.mean(before))],
        "kept": learned.kept,
        "seconds": round(seconds / len(worlds), 1),
        "learn_gmac": round(learned.macs / 1e9, 2),
    }
