"""Scene 2: the digits begin to arrive changed; some labelled ones are learned, in each world by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from msgspec import Struct

from ..learning.learner import Learner
from ..learning.update import Settings, learning_units
from ..model import Model
from .bundles import require_digits
from .follow import Point, follow
from .mnist_files import Digits, some
from .worlds import WORLDS, change

REMEDY = "fftrain mnist && ffexport"


class Plan(Struct, frozen=True):
    """How many of what."""

    portions: int = 5
    portion: int = 64  # labelled images in each
    rehearsal: int = 300  # steps in the end, when the device is at rest
    measured: int = 500  # images, as they were and changed
    settings: Settings = Settings()  # the defaults of `ffruntime learn`


QUICK = Plan(portions=1, portion=32, rehearsal=5, measured=100, settings=Settings(steps=10, head_steps=10))


def require(model: Model) -> None:
    """Raises `BundleError` where the bundle is none for this scene, with the command that makes one."""
    require_digits(model, REMEDY)
    learning_units(model.manifest.network, model.manifest.files)


def portions(model: Model, training: Digits, world: str, plan: Plan, seed: int) -> list[Digits]:
    """What is learned in a world, in the order in which it comes."""
    known = training.of(*(int(name) for name in model.manifest.classes))
    order = np.random.default_rng([seed, *map(ord, world)]).permutation(len(known))
    taken = known.take(order[: plan.portions * plan.portion])
    arrived = Digits(change(world, taken.pixels), taken.labels)
    starts = range(0, len(arrived), plan.portion)
    return [arrived.take(np.arange(start, min(start + plan.portion, len(arrived)))) for start in starts]


def steps(plan: Plan) -> int:
    """Steps of all updates in all worlds."""
    update = plan.settings.steps + plan.settings.head_steps
    return len(WORLDS) * (plan.portions * update + 2 * plan.rehearsal)


def run(
    model: Model,
    training: Digits,
    tested: Digits,
    world: str,
    plan: Plan,
    seed: int,
    state: Path,
    stepped: Callable[[], None],
) -> Iterator[Point]:
    """One of `WORLDS`, learned by the device's learner, with its defaults, in the state directory `state`."""
    old = some(tested.of(*(int(name) for name in model.manifest.classes)), plan.measured)
    new = Digits(change(world, old.pixels), old.labels)
    with contextlib.closing(Learner(model, state, plan.settings)) as learner:
        yield from follow(learner, portions(model, training, world, plan, seed), new, old, stepped, plan.rehearsal)
