"""How many steps there is time for: the clock decides once, while nothing that was done depends on the answer."""

from __future__ import annotations

import math
import time

import torch
from msgspec import Struct, structs

from ffruntime.core.architecture import Network

from .hardware import anyone, from_first, synchronise
from .recipe import Recipe
from .training import trained_units

WATCHED = 60.0  # seconds of steps, at most, by which the clock decides
SAFELY = 0.8  # of the time in which nothing depends on the number of steps
WARM_UP = 5  # steps that are not timed: the first ones choose kernels


class Costs(Struct, frozen=True):
    """What a run's parts take on this machine, in seconds: a `step`, what an `epoch` takes besides its steps, and
    what is done at the `end` of the training."""

    step: float
    epoch: float
    end: float


class Limit(Struct, frozen=True):
    """Seconds for a run, from its first step until its bundle is written; `costs` as estimated beforehand; `most`:
    steps that are enough, however much time there is."""

    seconds: float
    costs: Costs
    most: int | None = None


def free_share(recipe: Recipe, network: Network) -> float:
    """Share of the training in which no step depends on how many there will be: the learning rate has not begun to
    fall, the first unit still has its turn, and the first hard negatives are not due."""
    turns = len(trained_units(recipe, network)) if recipe.schedule.order == "sequential" else 1
    share = recipe.schedule.constant / turns
    return min(share, recipe.negatives.warmup) if recipe.negatives.hard and recipe.negatives.warmup else share


def decision_time(limit: Limit, share: float) -> float:
    """When the clock decides, in seconds from the first step; 0: before it."""
    return min(WATCHED, SAFELY * share * limit.seconds)


def steps_in_time(limit: Limit, costs: Costs, elapsed: float, done: int, steps_per_epoch: int, share: float) -> int:
    """Number of steps of the whole run, `done` of which have taken `elapsed` seconds by now.

    As many as the limit leaves time for, at least one, and at least so many that those that are done lie within the
    `share` of the training in which they were alike for any number.
    """
    left = limit.seconds - elapsed - costs.end
    further = int(left / (costs.step + costs.epoch / steps_per_epoch))
    needed = math.ceil(done / share) if share else 1
    return max(done + max(further, 0), needed, 1)


class Watch:
    """Times a run's steps from when it `begun` (of `time.monotonic`) until the number of its steps is decided."""

    def __init__(self, limit: Limit | None, share: float, steps_per_epoch: int, begun: float, device: torch.device):
        self._limit, self._share, self._per_epoch, self._device = limit, share, steps_per_epoch, device
        self._begun = begun
        self._seen = self._timed = 0  # steps of this process, and those that are timed
        self._inside = 0.0  # seconds in the timed ones, up to the last pause
        self._since: float | None = None  # when steps began after the last pause

    def seconds(self) -> float:
        """Since the run has begun."""
        return time.monotonic() - self._begun

    def pauses(self) -> None:
        """What follows belongs to no step."""
        if self._limit and self._since is not None:
            synchronise(self._device)
            self._inside += time.monotonic() - self._since
        self._since = None

    def steps(self) -> None:
        """What follows is a step."""
        if self._limit and self._since is None:
            self._since = time.monotonic()

    def stepped(self) -> None:
        """A step is done."""
        self._seen, self._timed = self._seen + 1, self._timed + 1
        if self._limit and self._seen == WARM_UP:
            synchronise(self._device)
            self._timed, self._inside, self._since = 0, 0.0, time.monotonic()

    def decide(self, done: int) -> int | None:
        """The number of steps of the whole run, `done` of which are done, once it is time to say so.

        It is the same in all processes, all of which have to ask.
        """
        limit = self._limit
        if limit is None or not anyone(self.seconds() >= decision_time(limit, self._share), self._device):
            return None
        self.pauses()
        self._limit = None
        costs = limit.costs
        if self._seen > 2 * WARM_UP:
            costs = structs.replace(costs, step=self._inside / self._timed)
        total = steps_in_time(limit, costs, self.seconds(), done, self._per_epoch, self._share)
        return int(from_first(min(total, limit.most or total)))
