"""What an update changes: weights in place, by steps of the units and, where there is one, of the classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeAlias

import numpy as np
from msgspec import structs

from ..backend import in_chunks
from ..core.architecture import class_goodness
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
