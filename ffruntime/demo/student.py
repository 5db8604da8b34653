"""A network that learns in memory, by the device's own steps (`learning/update.py`); nothing is stored: scene 3."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from ..core import transition as bundle
from ..core.data import to_unit_interval
from ..core.learning import Augment
from ..core.state import Weights
from ..learning.augment import augment
from ..learning.update import (
    HEAD,
    Arrays,
    Optimizer,
    Settings,
    head_step,
    learned_names,
    learning_units,
    local_step,
    pair_inputs,
)
from ..model import Model
from .mnist_files import Digits

LOOK = 8  # steps for which the features that the classifier sees may be those of earlier weights


class Student:
    """An untrained network, its optimizer's moments, and the labels it has met."""

    def __init__(
        self,
        model: Model,
        settings: Settings,
        augmentation: Augment,
        rng: np.random.Generator,
        stepped: Callable[[], None] = lambda: None,
    ) -> None:
        """`rng` draws the weights, negatives and changed images; `stepped` is called after each step.

        Raises `BundleError` where the bundle has no gradient graphs.
        """
        self._model, self._settings, self._augmentation, self._rng = model, settings, augmentation, rng
        self._stepped, self.steps = stepped, 0
        assert model.manifest.learning
        self._learning = model.manifest.learning
        self._network = model.manifest.network
        self._units = learning_units(self._network, model.manifest.files)
        self._names = learned_names(self._network, self._units)
        self._weights = untrained(bundle.read_weights(model.path, model.manifest), rng)
        self._known = np.zeros(self._network.label.patterns, bool)
        self._local, self._head = (
            Optimizer(
                settings.optimizer, {name: self._weights[name] for name in self._names if (name in HEAD) == head}
            )
            for head in (False, True)
        )
        self._look()

    def step(self, digits: Digits, rate: float = 1.0) -> None:
        """One step of every unit and of the classifier; `rate` times the settings' learning rates."""
        labels = digits.labels.astype(np.int64)
        settings = msgspec.structs.replace(
            self._settings, lr=rate * self._settings.lr, head_lr=rate * self._settings.head_lr
        )
        self._known[labels] = True
        images = to_unit_interval(augment(self._augmentation, digits.pixels, self._rng))
        features = self._looking.graph("classifier")({"images": images})["features"]
        logits = features @ self._weights["head.weight"].T + self._weights["head.bias"]
        logits[:, ~self._known] = -np.inf
        positive, negative = pair_inputs(
            self._network, self._weights, images, labels, lambda _: logits, settings, self._learning, self._rng
        )
        for optimizer in (self._local, self._head):
            optimizer.next_step()
        graph = self._model.graph
        local_step(self._network, graph, self._units, self._weights, positive, negative, self._local, settings)
        head_step(graph, features, labels, self._weights, self._head, settings)
        self.steps += 1
        self._stepped()
        if self.steps % LOOK == 0:
            self._look()

    def model(self, classes: Sequence[str]) -> Model:
        """The network as it is now, which answers with one of `classes`, the bundle's first ones."""
        learned = {name: self._weights[name].copy() for name in self._names}
        return self._model.with_weights(Weights(learned, tuple(classes)))

    def _look(self) -> None:
        self._looking = self.model(self._model.classes)


def untrained(weights: Arrays, rng: np.random.Generator) -> Arrays:
    """The same tensors, what is learned of them drawn anew: as `fftrain` begins (He et al. 2015).

    Weights of units are normal with standard deviation √(2 / fan-in); biases and the classifier are zero.
    """
    fresh = dict(weights)
    for name in sorted(weights):
        shape = weights[name].shape
        if name.startswith("unit") and name.endswith(".weight"):
            deviation = math.sqrt(2 / math.prod(shape[1:][-3:]))  # (C, k, k) at a position, or (F,)
            fresh[name] = (deviation * rng.standard_normal(shape)).astype(np.float32)
        elif name in HEAD or name.endswith(".bias"):
            fresh[name] = np.zeros(shape, np.float32)
    return fresh
