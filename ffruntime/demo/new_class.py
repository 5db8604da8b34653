"""Scene 1: a digit that the network never saw is learned on the device, a handful at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from msgspec import Struct

from ..core.errors import BundleError
from ..learning.learner import Learner
from ..learning.update import Settings, learning_units
from ..model import Model
from .bundles import DIGITS, require_digits
from .follow import Point, follow
from .mnist_files import Digits, some

REMEDY = "fftrain mnist --classes 0-8 --out nine.ff && ffexport --model nine.ff"


class Plan(Struct, frozen=True):
    """How many of what."""

    taught: tuple[int, ...] = (5, 10, 20, 40, 80)  # examples in all, after each portion
    measured: int = 2000  # images, of all ten digits
    settings: Settings = Settings()  # the defaults of `ffruntime learn`


QUICK = Plan(taught=(5, 10), measured=200, settings=Settings(steps=10, head_steps=10))


def require(model: Model) -> None:
    """Raises `BundleError` where the bundle is none for this scene, with the command that makes one."""
    require_digits(model, REMEDY)
    if set(model.manifest.classes) == set(DIGITS):
        raise BundleError(f"{model.path}: knows all ten digits; make a network that does not: {REMEDY}")
    if model.manifest.network.label.patterns == len(model.manifest.classes):
        raise BundleError(f"{model.path}: has no spare label pattern for a new class; make one: {REMEDY}")
    learning_units(model.manifest.network, model.manifest.files)


def new_digit(model: Model) -> int:
    """The digit that is taught: the last one that the network does not know."""
    return max(int(name) for name in set(DIGITS) - set(model.manifest.classes))


def portions(model: Model, training: Digits, plan: Plan, seed: int) -> list[Digits]:
    """What is taught, in the order in which it comes."""
    taught = training.of(new_digit(model))
    order = np.random.default_rng([seed, 9]).permutation(len(taught))
    return [taught.take(order[start:end]) for start, end in pairwise((0, *plan.taught))]


def steps(plan: Plan) -> int:
    """Steps of all updates."""
    return len(plan.taught) * (plan.settings.steps + plan.settings.head_steps)


def run(
    model: Model, training: Digits, tested: Digits, plan: Plan, seed: int, state: Path, stepped: Callable[[], None]
) -> Iterator[Point]:
    """Teach the digit through the device's learner, with its defaults, in the state directory `state`."""
    measured, digit = some(tested, plan.measured), new_digit(model)
    known = measured.of(*(int(name) for name in model.manifest.classes))
    with contextlib.closing(Learner(model, state, plan.settings)) as learner:
        yield from follow(learner, portions(model, training, plan, seed), measured.of(digit), known, stepped)
