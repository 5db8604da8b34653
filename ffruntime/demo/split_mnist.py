"""Scene 3: Split-MNIST, class-incremental, online, one pass, from an untrained network.

Nothing is written to a state directory here: the device's steps, augmentation, negatives, replay and evictions run
in memory. Beside it, with the same network and the same kind of step: *naive*, which replays nothing, and *GDumb*
(Prabhu et al. 2020), a fresh network that learns only the examples that are stored in the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import msgspec
import numpy as np
from msgspec import Struct

from ..core.errors import BundleError
from ..core.learning import Augment
from ..learning.replay import draw_balanced, evictions
from ..learning.update import Settings, learning_units
from ..model import Model
from . import figures
from .bundles import DIGITS, require_digits
from .follow import accuracy
from .mnist_files import Digits, some
from .student import Student

TASKS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
Stored: TypeAlias = dict[int, list[int]]  # of each label, the places of its examples among the training images
MODE = "classifier"  # the inference mode of R, ACC, BWT and forgetting: chosen on validation images
SETTINGS = Settings(batch=64, micro_batch=32, fresh=0.25, lr=4e-3, head_lr=2e-3)
AUGMENT = Augment(shift=2, rotate=15.0, scale=0.15)
REMEDY = "fftrain mnist --recipe stream --epochs 0 --out untrained.ff && ffexport --model untrained.ff"


class Plan(Struct, frozen=True):
    """How many of what."""

    stored: int = 500  # examples
    arriving: int = 64  # images that arrive together; there is one step, then they are stored or gone
    per_task: int = 20_000  # images at most, so all
    rehearsal: int = 200  # steps on stored examples after each task, when the device is at rest
    gdumb: int = 1000  # steps of GDumb
    stream_rate: float = 0.25  # of the learning rates, while a task arrives
    goodness: int = 2000  # images on which goodness is measured in the end


QUICK = Plan(stored=100, per_task=256, rehearsal=5, gdumb=20, goodness=100)


class Method(Struct, frozen=True):
    """What came of a method. Accuracies are shares, by task."""

    r: list[list[float]]  # after each task, on each; of GDumb, which has only an end, one row
    acc: float
    bwt: float | None
    forgetting: float | None
    goodness: list[float]  # in the end, by goodness of every label
    steps: int
    seconds: float


def require(model: Model) -> None:
    """Raises `BundleError` where the bundle is none for this scene, with the command that makes one."""
    require_digits(model, REMEDY)
    if model.manifest.classes != DIGITS or model.manifest.training.epochs:
        raise BundleError(f"{model.path}: an untrained network of all ten digits is needed: {REMEDY}")
    learning_units(model.manifest.network, model.manifest.files)


def steps(training: Digits, plan: Plan) -> int:
    """Steps of all three methods."""
    arrivals = sum(-(-min(len(training.of(*task)), plan.per_task) // plan.arriving) for task in TASKS)
    return 2 * arrivals + len(TASKS) * plan.rehearsal + plan.gdumb


def run(
    model: Model, training: Digits, tested: Digits, plan: Plan, seed: int, stepped: Callable[[], None]
) -> Iterator[tuple[str, Method]]:
    """The three methods, one after the other, from the same weights and on the same stream.

    `seed` draws the weights, the order of the stream, and what is replayed.
    """
    order = np.random.default_rng([seed, 0])
    stream = [order.permutation(np.flatnonzero(np.isin(training.labels, task)))[: plan.per_task] for task in TASKS]
    measured = tested, some(tested, plan.goodness)

    def student() -> Student:
        return Student(model, SETTINGS, AUGMENT, np.random.default_rng([seed, 1]), stepped)

    def rng() -> np.random.Generator:
        return np.random.default_rng([seed, 2])

    one = student()
    start = time.perf_counter()
    rows, stored = learn(one, training, stream, tested, plan, rng())
    yield "replay", _method(one, rows, measured, start)
    one, start = student(), time.perf_counter()
    alone = msgspec.structs.replace(plan, stored=0, rehearsal=0)
    rows, _ = learn(one, training, stream, tested, alone, rng())
    yield "naive", _method(one, rows, measured, start)
    one, start = student(), time.perf_counter()
    rehearse(one, training, stored, plan.gdumb, rng())
    yield "gdumb", _method(one, [by_task(one, tested, len(TASKS))], measured, start)


def learn(
    student: Student,
    training: Digits,
    stream: Sequence[np.ndarray],
    tested: Digits,
    plan: Plan,
    rng: np.random.Generator,
) -> tuple[list[list[float]], Stored]:
    """Task after task: images arrive once, in the order of `stream`; then the stored ones are rehearsed.

    Returns the rows of R, and the examples that are stored in the end.
    """
    stored: Stored = {}
    seen: dict[int, int] = {}
    rows = []
    for task, places in enumerate(stream, 1):
        for start in range(0, len(places), plan.arriving):
            new = places[start : start + plan.arriving]
            fresh = round(SETTINGS.batch * SETTINGS.fresh) if any(stored.values()) else SETTINGS.batch
            old = draw_balanced(stored, SETTINGS.batch - fresh, rng)
            student.step(
                training.take(np.array([*rng.choice(new, fresh, fresh > len(new)), *old])), plan.stream_rate
            )
            _store(stored, seen, [(int(place), int(training.labels[place])) for place in new], plan.stored, rng)
        rehearse(student, training, stored, plan.rehearsal, rng)
        rows.append(by_task(student, tested, task))
    return rows, stored


def rehearse(student: Student, training: Digits, stored: Stored, steps: int, rng: np.random.Generator) -> None:
    """Learn from stored examples only, evenly over the classes; the rates fall to 0 over the second half."""
    for step in range(steps):
        places = np.array(draw_balanced(stored, SETTINGS.batch, rng))
        student.step(training.take(places), min(1.0, 2 * (1 - step / steps)))


def by_task(student: Student, tested: Digits, met: int, mode: str = MODE) -> list[float]:
    """Accuracy on each task of a network that has met the first `met` of them, and answers with their classes."""
    model = student.model(DIGITS[: 2 * met])
    return [accuracy(model, tested.of(*task), mode) if number < met else 0.0 for number, task in enumerate(TASKS)]


def summary(methods: Sequence[Method]) -> dict[str, tuple[float, float] | None]:
    """Mean and standard deviation over the seeds (0 of a single one) of each figure that the method has."""
    found: dict[str, list[float | None]] = {
        "acc": [method.acc for method in methods],
        "acc_by_goodness": [float(np.mean(method.goodness)) for method in methods],
        "bwt": [method.bwt for method in methods],
        "forgetting": [method.forgetting for method in methods],
    }
    return {figure: _spread([value for value in values if value is not None]) for figure, values in found.items()}


def _spread(values: Sequence[float]) -> tuple[float, float] | None:
    return (float(np.mean(values)), float(np.std(values, ddof=len(values) > 1))) if values else None


def _store(
    stored: Stored, seen: dict[int, int], arrived: list[tuple[int, int]], capacity: int, rng: np.random.Generator
) -> None:
    """Keep what the replay policy keeps, in place."""
    gone = set(evictions(stored, seen, arrived, capacity, rng))
    for place, label in arrived:
        stored.setdefault(label, []).append(place)
        seen[label] = seen.get(label, 0) + 1
    for label, places in stored.items():
        stored[label] = [place for place in places if place not in gone]


def _method(student: Student, rows: list[list[float]], measured: tuple[Digits, Digits], start: float) -> Method:
    seconds, r = time.perf_counter() - start, np.array(rows)
    whole = len(r) == len(TASKS)
    goodness = by_task(student, measured[1], len(TASKS), "goodness")
    return Method(
        rows,
        figures.acc(r),
        figures.bwt(r) if whole else None,
        figures.forgetting(r) if whole else None,
        goodness,
        student.steps,
        seconds,
    )
