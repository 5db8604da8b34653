"""An update: what it changes, by steps of the units and, where there is one, of the classifier; and whether the new
weights are adopted, by images that no gradient learned from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeAlias

import numpy as np
from msgspec import Struct, structs

from ..backend import in_chunks
from ..core.architecture import class_goodness
from ..core.data import Examples
from ..core.layers import learned_tensors
from ..core.learning import Learning
from ..model import Model
from .step import Arrays, ClassSteps, HeadSteps, Scores, Settings, UnitSteps, learning_units

Batch: TypeAlias = tuple[np.ndarray, np.ndarray]  # images in [0, 1] (B, C, H, W), labels (B,)
Batches: TypeAlias = Iterator[Batch]
Stepped: TypeAlias = Callable[[], None]  # called after each step


def change(
    model: Model,
    lender: Model,
    weights: Arrays,
    batches: Batches,
    learning: Learning,
    settings: Settings,
    rng: np.random.Generator,
    stepped: Stepped,
    frozen: bool = False,
) -> tuple[float, ...]:
    """Change the weights of `model`, given as `weights`, and return the last losses: of the units that learn, and
    of the classifier. `lender` lends its gradient graphs. With class goodness and `frozen` readouts alone change.

    First come all steps of the units, then all of the classifier, on the features of the units as they are then:
    only one of the two optimizers is in memory at a time.
    """
    if class_goodness(model.manifest.network):
        steps = ClassSteps(lender, weights, settings, frozen)
        for images, labels in islice(batches, settings.steps):
            steps.step(images, labels)
            stepped()
        return steps.losses
    units, scores = UnitSteps(lender, weights, settings, learning.negatives, rng), plausibility(model, settings)
    for images, labels in islice(batches, settings.steps):
        units.step(images, labels, scores)
        stepped()
    losses = units.losses
    del units
    network, now = model.manifest.network, model.weights
    learned = learned_tensors(network, learning_units(network, model.manifest.files))
    changed = {tensor.name: weights[tensor.name] for tensor in learned if not tensor.of_head}
    deeper = model.with_weights(structs.replace(now, tensors={**now.tensors, **changed}))
    classify = in_chunks(deeper.graph("classifier"), settings.micro_batch, 1)
    head = HeadSteps(lender, weights, settings)
    for images, labels in islice(batches, settings.head_steps):
        head.step(classify({"images": images})["features"], labels)
        stepped()
    return (*losses, head.loss)


def plausibility(model: Model, settings: Settings) -> Scores:
    """What the classifier says of images, one row of scores each.

    Classes that it does not know well are as plausible as the best of the others, spare patterns not at all.
    """
    undertrained = [label for label, name in enumerate(model.classes) if name in model.undertrained]
    classify = in_chunks(model.graph("classifier"), settings.micro_batch, 1)

    def scores(images: np.ndarray) -> np.ndarray:
        logits = classify({"images": images})["logits"]
        logits[:, len(model.classes) :] = -np.inf
        logits[:, undertrained] = logits.max(1, keepdims=True)
        return logits

    return scores


# --- whether the new weights are adopted


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


class Outcome(Struct, frozen=True):
    """What came of an update, or of a state that was applied: that has no examples, no losses and no `judged`."""

    version: int
    adopted: bool
    examples: tuple[int, ...]  # ids of those learned from
    before: float | None  # share of the held-back examples that the shipped weights classify rightly
    after: float | None  # and the new weights; None: the bundle has none to hold back
    losses: tuple[float, ...]  # of the units that learn, in the last step, and of the classifier
    evicted: int
    seconds: float
    judged: Judged | None = None  # by the device's own judging examples; of units by held-back ones, too
    dropped: int | None = None  # examples that new units' class statistics, begun anew, no longer count
    own: bool = False  # of a state: its class statistics have examples of this one, so they were left out


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
