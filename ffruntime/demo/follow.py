"""Teach portion after portion to a device's learner, and measure after each: scenes 1 and 2."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from msgspec import Struct

from ..learning.learner import Learner
from ..model import Model
from .mnist_files import Digits


class Point(Struct, frozen=True):
    """How it stands after so many examples. Accuracies are by inference mode, shares of right answers."""

    examples: int  # that were stored so far
    rehearsed: int  # steps of rehearsal so far
    adopted: bool  # whether the last update was
    seconds: float  # from storing the last portion to its adoption
    new: dict[str, float]  # on what is being learned
    old: dict[str, float]  # on what was known before


def follow(
    learner: Learner,
    portions: Iterable[Digits],
    new: Digits,
    old: Digits,
    stepped: Callable[[], None],
    rehearsal: int = 0,
) -> Iterator[Point]:
    """A point before anything is learned, one after each portion, and one after `rehearsal` steps of rehearsal.

    `stepped` is called after each step.
    """

    def point(examples: int, rehearsed: int, adopted: bool, seconds: float) -> Point:
        known = learner.model
        modes: list[str] = [*known.modes()]
        on_new, on_old = ({mode: accuracy(known, images, mode) for mode in modes} for images in (new, old))
        return Point(examples, rehearsed, adopted, seconds, on_new, on_old)

    examples = 0
    yield point(examples, 0, True, 0.0)
    for portion in portions:
        start, adopted = time.perf_counter(), True
        for outcome in learner.learn(portion.pixels, [str(digit) for digit in portion.labels], stepped=stepped):
            adopted = outcome.adopted
        examples += len(portion)
        yield point(examples, 0, adopted, time.perf_counter() - start)
    if rehearsal and (rehearsed := learner.rehearse(rehearsal, stepped)):
        yield point(examples, rehearsal, rehearsed.adopted, rehearsed.seconds)


def accuracy(model: Model, images: Digits, mode: str) -> float:
    """Share of the images that the model names rightly; a digit that it has no name for is never right."""
    answers = np.array(model.classes)[model.scores(images.pixels, mode).argmax(1)]
    return float(np.mean(answers == images.labels.astype(str)))
