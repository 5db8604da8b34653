"""Backpropagation, beside which learning on the device is measured: the same network and replay, in PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ffruntime.core.cost import goodness_macs
from ffruntime.core.data import Examples
from ffruntime.core.layers import KNOWN, learned_tensors
from ffruntime.core.learning import Augment
from ffruntime.demo.methods import evenly
from ffruntime.learning.draws import augment
from ffruntime.learning.step import Settings
from ffruntime.model import Model
from fftrain import network as net

IMAGES = 500  # measured at a time
PASSES = 3  # forward, the gradient of what a layer receives, and of its weights: each a pass's arithmetic


class Backpropagation:
    """A model's network, all of which one loss teaches: the cross-entropy of its answers. Adam; normalisation
    statistics stay as they are."""

    def __init__(self, model: Model, fresh: Mapping[str, np.ndarray], settings: Settings) -> None:
        """`fresh`: tensors in place of the bundle's."""
        self._network, self._settings, self.macs = model.manifest.network, settings, 0
        arrays = {**model.bundle.weights(), **fresh}
        learned = [t.name for t in learned_tensors(self._network, range(len(self._network.units))) if t.learnable]
        self._tensors = {name: torch.tensor(array) for name, array in arrays.items()}
        for name in learned:
            self._tensors[name].requires_grad_()
        self._optimizer = torch.optim.Adam([self._tensors[name] for name in learned], lr=settings.lr)

    def know(self, labels: Iterable[int]) -> None:
        """Classes that take part from now on."""
        self._tensors[KNOWN][list(labels)] = 1

    def step(self, pixels: np.ndarray, labels: np.ndarray, rate: float = 1.0) -> None:
        """One step from images uint8 (B, C, H, W), at `rate` times the learning rate."""
        self._optimizer.param_groups[0]["lr"] = rate * self._settings.lr
        self._optimizer.zero_grad()
        cross_entropy(self._logits(pixels), torch.from_numpy(labels.astype(np.int64))).backward()
        self._optimizer.step()
        self.macs += PASSES * len(labels) * goodness_macs(self._network, 1)

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        """Images uint8 (N, C, H, W) -> a score of every class, float32 (N, P); −∞ of those not known."""
        with torch.no_grad():
            parts = [self._logits(pixels[k : k + IMAGES]).numpy() for k in range(0, len(pixels), IMAGES)]
        return np.concatenate(parts)

    def _logits(self, pixels: np.ndarray) -> Tensor:
        images = net.to_images(torch.from_numpy(pixels), self._network, torch.float32)
        goodness = net.goodness_of_classes(self._network, self._tensors, images)
        unknown = self._tensors[KNOWN] == 0
        return net.total_goodness(self._network, self._tensors, goodness).masked_fill(unknown, -torch.inf)


class Memory:
    """Stored images: of every class a sample drawn evenly, as many as there is room for."""

    def __init__(self, capacity: int, seed: int, seeds: Examples | None = None) -> None:
        self._capacity, self._rng = capacity, np.random.default_rng([seed, 6])
        self.stored = Examples.none((1, 28, 28))
        self._draws = np.empty(0)
        if seeds is not None:
            self.add(seeds)

    def add(self, new: Examples) -> None:
        """Images arrive; some of those that are stored go."""
        pixels, labels = (np.concatenate([getattr(self.stored, k), getattr(new, k)]) for k in ("pixels", "labels"))
        draws = np.concatenate([self._draws, self._rng.random(len(new))])
        places = evenly(labels, draws, self._capacity)
        self.stored, self._draws = Examples(pixels[places], labels[places]), draws[places]

    def draw(self, count: int, rng: np.random.Generator) -> Examples:
        """So many of them, evenly over the classes."""
        labels, classes = self.stored.labels, np.unique(self.stored.labels)
        chosen = rng.choice(classes, count)
        return self.stored.take(np.array([rng.choice(np.flatnonzero(labels == label)) for label in chosen]))


def batches(
    memory: Memory, new: Examples, settings: Settings, changed: Augment, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches without end, as the device's learner has them: a share of new images, the others replayed, all
    changed anew."""
    while True:
        fresh = round(settings.batch * settings.fresh) if len(memory.stored) else settings.batch
        fresh = fresh if len(new) else 0
        parts = []
        if fresh:
            parts.append(new.take(rng.choice(len(new), fresh, replace=fresh > len(new))))
        if fresh < settings.batch:
            parts.append(memory.draw(settings.batch - fresh, rng))
        pixels = np.concatenate([part.pixels for part in parts])
        yield augment(changed, pixels, rng), np.concatenate([part.labels for part in parts])
