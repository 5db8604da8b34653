"""Whether new weights are adopted: by images that no gradient learned from."""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from ..core.data import Examples
from ..model import Model


class Judged(Struct, frozen=True):
    """What a device's own judging examples say of new weights: answers that are right, of so many."""

    images: int
    before: int  # of the version that the update began with
    after: int

    @property
    def better(self) -> bool:
        return self.after > self.before

    def harmful(self, tolerance: float) -> bool:
        """Whether more than that share of them is lost, and more than one."""
        return self.before - self.after > max(1.0, tolerance * self.images)


def share_right(model: Model, examples: Examples) -> float | None:
    """Share of some examples that a model classifies rightly, by its best mode; None of none."""
    return _right(model, examples) / len(examples) if len(examples) else None


def judged(before: Model, after: Model, examples: Examples) -> Judged | None:
    """Two models beside each other; None without examples."""
    if not len(examples):
        return None
    return Judged(len(examples), _right(before, examples), _right(after, examples))


def costs(shipped: float | None, after: float | None, tolerance: float) -> bool:
    """Whether new weights cost more held-back examples than is tolerated, against the shipped ones."""
    return shipped is not None and after is not None and after < shipped - tolerance


def _right(model: Model, examples: Examples) -> int:
    return int(np.sum(model.scores(examples.pixels).argmax(1) == examples.labels))
