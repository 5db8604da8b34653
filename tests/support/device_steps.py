"""Some steps of an update on the device, from a bundle's own exemplars."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec import structs

from ffruntime.core.bundle import CALIBRATION
from ffruntime.core.data import to_unit_interval
from ffruntime.core.learning import Hybrids, WrongLabels
from ffruntime.embedding import first_input
from ffruntime.learning.step import Arrays, Settings, UnitSteps
from ffruntime.model import Model

STEPS, BATCH = 5, 24


def batches(model: Model, negatives: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images in [0, 1] (B, C, H, W), and labels (1 + M, B), right ones first, spare patterns among the wrong."""
    images, labels = structs.astuple(model.bundle.exemplars(CALIBRATION))
    patterns = model.manifest.network.label.patterns
    rng, found = np.random.default_rng(0), []
    for _ in range(STEPS):
        chosen = rng.choice(len(images), BATCH)
        wrong = (labels[chosen] + rng.integers(1, patterns, (negatives, BATCH))) % patterns
        found.append((to_unit_interval(images[chosen]), np.concatenate([labels[chosen][None], wrong])))
    return found


def device_units(model: Model, weights: Arrays, settings: Settings) -> list[list[float]]:
    network = model.manifest.network
    steps, losses = UnitSteps(model, weights, settings, WrongLabels(), np.random.default_rng(0)), []
    for images, labels in batches(model, settings.negatives):
        positive, *others = (
            first_input(network, weights, images, weights["labels.patterns"][row]) for row in labels
        )
        negative = np.concatenate(others)
        steps.descend(positive, negative)
        losses.append(list(steps.losses))
    return losses


def learn_from_hybrids(model: Model, weights: Arrays, images: np.ndarray, count: int) -> tuple[float, ...]:
    """So many steps on the first 32 images, whose negatives are hybrids."""
    steps = UnitSteps(model, weights, Settings(lr=3e-3), Hybrids(3), np.random.default_rng(0))
    shown = to_unit_interval(images[:32])
    for _ in range(count):
        labels = np.zeros(len(shown), np.int64)
        steps.step(shown, labels, lambda _: pytest.fail("nobody has to ask which label is plausible"))
    return steps.losses
