"""Scenes 1 and 2: a device's learner is taught portion after portion, and measured after each.

Scene 1: a digit that the network never saw. Scene 2: the digits begin to arrive changed, in each of six worlds.
Where the bundle has class statistics, methods that take no steps learn beside the learner.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np
from msgspec import Struct, structs

from ..core.architecture import Network, class_goodness
from ..core.bundle import Bundle
from ..core.data import Examples
from ..core.errors import BundleError
from ..core.manifest import EXIT
from ..core.statistics import KEPT_BYTES, Statistics, of, with_classes
from ..learning.learner import Learner
from ..learning.step import Settings, learning_units, update_steps
from ..model import Model
from .digits import DIGITS, accuracy, known, names, require_digits, showing, some
from .methods import WIDTH, Covariances, Method, NearestMean, Neighbours, waves
from .worlds import WORLDS, Renormalised, change

Features: TypeAlias = Callable[[np.ndarray], np.ndarray]  # of images uint8 (N, C, H, W), what a method is told
Seen: TypeAlias = dict[Features, np.ndarray]

NEW_CLASS_REMEDY = "fftrain mnist --classes 0-8 --out nine.ff && ffexport --model nine.ff"
CHANGED_WORLD_REMEDY = "fftrain mnist && ffexport"


class NewClassPlan(Struct, frozen=True):
    """How many of what in scene 1."""

    taught: tuple[int, ...] = (5, 10, 20, 40, 80)  # examples in all, after each portion
    measured: int = 2000  # images, of all ten digits
    settings: Settings = Settings()  # the defaults of `ffruntime learn`


class ChangedWorldPlan(Struct, frozen=True):
    """How many of what in scene 2."""

    portions: int = 5
    portion: int = 64  # labelled images in each
    rehearsal: int = 300  # steps in the end, when the device is at rest
    measured: int = 500  # images, as they were and changed
    settings: Settings = Settings()  # the defaults of `ffruntime learn`


# With class goodness: chosen on validation images (benchmarks/README.md).
CLASS_CHANGED_WORLD = ChangedWorldPlan(rehearsal=100, settings=Settings(fresh=0.5, lr=2e-3))
QUICK_NEW_CLASS = NewClassPlan(taught=(5, 10), measured=200, settings=Settings(steps=10, head_steps=10))
QUICK_CHANGED_WORLD = ChangedWorldPlan(
    portions=1, portion=32, rehearsal=5, measured=100, settings=Settings(steps=10, head_steps=10)
)


class Measurement(Struct, frozen=True):
    """How it stands after so many examples. Accuracies are shares of right answers, by the inference mode of what
    the learner has made, then by method beside it (`Beside`)."""

    examples: int  # that were stored so far
    rehearsed: int  # steps of rehearsal so far
    adopted: bool  # whether the last update was
    seconds: float  # from storing the last portion to its adoption
    new: dict[str, float]  # on what is being learned
    old: dict[str, float]  # on what was known before


# --- scene 1


def require_new_class(bundle: Bundle) -> None:
    """Raises `BundleError` where the bundle is none for scene 1, with the command that makes one."""
    require_digits(bundle, NEW_CLASS_REMEDY)
    manifest = bundle.manifest
    if set(manifest.classes) == set(DIGITS):
        raise BundleError(f"{bundle.path}: knows all ten digits; make a network that does not: {NEW_CLASS_REMEDY}")
    if manifest.network.label.patterns == len(manifest.classes):
        raise BundleError(
            f"{bundle.path}: has no spare label pattern for a new class; make one: {NEW_CLASS_REMEDY}"
        )
    learning_units(manifest.network, manifest.files)


def new_digit(bundle: Bundle) -> int:
    """The digit that is taught: the last one that the network does not know."""
    return max(int(name) for name in set(DIGITS) - set(bundle.manifest.classes))


def new_class_portions(bundle: Bundle, training: Examples, plan: NewClassPlan, seed: int) -> list[Examples]:
    """What is taught, in the order in which it comes."""
    taught = showing(training, new_digit(bundle))
    order = np.random.default_rng([seed, 9]).permutation(len(taught))
    return [taught.take(order[start:end]) for start, end in pairwise((0, *plan.taught))]


def new_class_steps(network: Network, plan: NewClassPlan) -> int:
    """Steps of all updates."""
    return len(plan.taught) * update_steps(network, plan.settings)


def teach_new_class(
    model: Model,
    portions: Sequence[Examples],
    tested: Examples,
    plan: NewClassPlan,
    state: Path,
    stepped: Callable[[], None],
    fourier: Statistics | None,
) -> Iterator[Measurement]:
    """Teach the digit through the device's learner, with its defaults, in the state directory `state`. `fourier`:
    as `fourier_statistics` has them."""
    measured = some(tested, plan.measured)
    new, old = (showing(measured, *digits) for digits in ([new_digit(model.bundle)], known(model.bundle)))
    with contextlib.closing(Learner(model, state, plan.settings, frozen=False)) as learner:
        yield from _teach(learner, Beside(model, fourier), portions, new, old, stepped)


# --- scene 2


def require_changed_world(bundle: Bundle) -> None:
    """Raises `BundleError` where the bundle is none for scene 2, with the command that makes one."""
    require_digits(bundle, CHANGED_WORLD_REMEDY)
    learning_units(bundle.manifest.network, bundle.manifest.files)


def changed_world_portions(
    bundle: Bundle, training: Examples, world: str, plan: ChangedWorldPlan, seed: int
) -> list[Examples]:
    """What is learned in a world, in the order in which it comes."""
    old = showing(training, *known(bundle))
    order = np.random.default_rng([seed, *map(ord, world)]).permutation(len(old))
    taken = old.take(order[: plan.portions * plan.portion])
    arrived = Examples(change(world, taken.pixels), taken.labels)
    starts = range(0, len(arrived), plan.portion)
    return [arrived.take(slice(start, start + plan.portion)) for start in starts]


def changed_world_steps(network: Network, plan: ChangedWorldPlan) -> int:
    """Steps of all updates in all worlds."""
    resting = structs.replace(plan.settings, steps=plan.rehearsal, head_steps=plan.rehearsal)
    update, rehearsal = (update_steps(network, settings) for settings in (plan.settings, resting))
    return len(WORLDS) * (plan.portions * update + rehearsal)


def teach_changed_world(
    model: Model,
    world: str,
    portions: Sequence[Examples],
    tested: Examples,
    plan: ChangedWorldPlan,
    state: Path,
    stepped: Callable[[], None],
    fourier: Statistics | None,
) -> Iterator[Measurement]:
    """One of `WORLDS`, learned by the device's learner, with its defaults, in the state directory `state`.
    `fourier`: as `fourier_statistics` has them."""
    old = some(showing(tested, *known(model.bundle)), plan.measured)
    new = Examples(change(world, old.pixels), old.labels)
    with contextlib.closing(Learner(model, state, plan.settings, frozen=False)) as learner:
        beside = Beside(model, fourier, drifting=True)
        yield from _teach(learner, beside, portions, new, old, stepped, plan.rehearsal)


# --- both


def fourier_statistics(model: Model, training: Examples) -> Statistics | None:
    """Class statistics of random Fourier features of the training set, of the digits that a model knows; None where
    the bundle has no class statistics of its own."""
    if not (model.manifest.counted and class_goodness(model.manifest.network)):
        return None
    own, classes = showing(training, *known(model.bundle)), _classes(model)
    dimension = model.bundle.statistics().dimension
    labels = np.array([classes.index(name) for name in names(own)])
    return of(waves(own.pixels, dimension, WIDTH, 0), labels, len(classes))


def _classes(model: Model) -> tuple[str, ...]:
    """The bundle's classes, then the other digits."""
    own = model.manifest.classes
    return (*own, *(name for name in DIGITS if name not in own))


class Beside:
    """Methods that learn at once: none where the model has no class statistics. What they begin with is in the
    bundle, but for Fourier features."""

    def __init__(self, model: Model, fourier: Statistics | None, drifting: bool = False) -> None:
        """`fourier`: as `fourier_statistics` has them. `drifting`: whether normalisation statistics follow, too."""
        self._classes, self._methods = _classes(model), dict[str, tuple[Features, Method]]()
        if fourier:
            training = with_classes(model.bundle.statistics(), len(self._classes))
            near, stored = Neighbours(len(self._classes), training.dimension, KEPT_BYTES), model.bundle.exemplars()
            near.add(model.examples(stored.pixels), stored.labels.astype(np.int64))
            self._methods = {
                "class statistics": (model.examples, Covariances(training)),
                "nearest class mean": (model.examples, NearestMean(training)),
                "nearest neighbours": (model.examples, near),
                "random Fourier features": (_waves(fourier.dimension), Covariances(fourier)),
            }
            if drifting:
                self._methods["normalisation statistics"] = _pixels, Renormalised(model)

    def learn(self, portion: Examples) -> None:
        """Examples of digits, by their labels."""
        labels, seen = np.array([self._classes.index(name) for name in names(portion)]), self.see(portion)
        for features, method in self._methods.values():
            method.add(seen[features], labels)

    def see(self, images: Examples) -> Seen:
        """What methods are told of images; without methods, nothing."""
        told = {features for features, _ in self._methods.values()}
        return {features: features(images.pixels) for features in told}

    def shares(self, seen: Seen, images: Examples) -> dict[str, float]:
        """Share of right answers of each method, by its name, of images and what is told of them."""
        classes, right = np.array(self._classes), images.labels.astype(str)
        return {
            name: float(np.mean(classes[method.scores(seen[features]).argmax(1)] == right))
            for name, (features, method) in self._methods.items()
        }


def _waves(dimension: int) -> Features:
    return lambda pixels: waves(pixels, dimension, WIDTH, 0)


def _pixels(pixels: np.ndarray) -> np.ndarray:
    return pixels


def _teach(
    learner: Learner,
    beside: Beside,
    portions: Sequence[Examples],
    new: Examples,
    old: Examples,
    stepped: Callable[[], None],
    rehearsal: int = 0,
) -> Iterator[Measurement]:
    """A point before anything is learned, one after each portion, and one after `rehearsal` steps of rehearsal."""

    shown = [(images, beside.see(images)) for images in (new, old)]

    def point(examples: int, rehearsed: int, adopted: bool, seconds: float) -> Measurement:
        model = learner.model
        modes: list[str] = [mode for mode in model.modes() if mode != EXIT]  # refuses classes without a row
        on_new, on_old = (
            {mode: accuracy(model, images, mode) for mode in modes} | beside.shares(x, images)
            for images, x in shown
        )
        return Measurement(examples, rehearsed, adopted, seconds, on_new, on_old)

    examples = 0
    yield point(examples, 0, True, 0.0)
    for portion in portions:
        start, adopted = time.perf_counter(), True
        lessons = learner.updates(
            [(portion.pixels, names(portion))], progress=lambda *_: contextlib.nullcontext(stepped), now=True
        )
        for outcome in lessons:
            adopted = outcome.adopted
        beside.learn(portion)
        examples += len(portion)
        yield point(examples, 0, adopted, time.perf_counter() - start)
    if rehearsal and (rehearsed := learner.rehearse(rehearsal, stepped)):
        yield point(examples, rehearsal, rehearsed.adopted, rehearsed.seconds)
