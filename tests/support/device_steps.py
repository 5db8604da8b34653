"""Some steps of an update on the device, from a bundle's own exemplars."""

from __future__ import annotations

import numpy as np

from ffruntime.labels import first_input, to_unit_interval
from ffruntime.learning.learner import CALIBRATION, exemplars
from ffruntime.learning.update import (
    Arrays,
    Optimizer,
    Settings,
    learned_names,
    learning_units,
    local_step,
)
from ffruntime.model import Model

STEPS, BATCH = 5, 24


def batches(model: Model, negatives: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images in [0, 1] (B, C, H, W), and labels (1 + M, B), right ones first, spare patterns among the wrong."""
    images, labels = exemplars(model, CALIBRATION)
    patterns = model.manifest.network.label.patterns
    rng, found = np.random.default_rng(0), []
    for _ in range(STEPS):
        chosen = rng.choice(len(images), BATCH)
        wrong = (labels[chosen] + rng.integers(1, patterns, (negatives, BATCH))) % patterns
        found.append((to_unit_interval(images[chosen]), np.concatenate([labels[chosen][None], wrong])))
    return found


def device_units(model: Model, weights: Arrays, settings: Settings) -> list[list[float]]:
    network = model.manifest.network
    units = learning_units(network, model.manifest.files)
    own = {name: weights[name] for name in learned_names(network, units) if not name.startswith("head.")}
    optimizer, losses = Optimizer(settings.optimizer, own), []
    for images, labels in batches(model, settings.negatives):
        positive, *others = (
            first_input(network, weights, images, weights["labels.patterns"][row]) for row in labels
        )
        negative = np.concatenate(others)
        optimizer.next_step()
        losses.append(local_step(network, model.graph, units, weights, positive, negative, optimizer, settings))
    return losses
