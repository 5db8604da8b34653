"""Learning while examples keep coming: one step of everything for each portion, where an update would be too slow.

The examples are stored, replayed and evicted as by `Learner.update`. Moments are kept from step to step, and
nothing is judged before it is to be adopted.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeAlias

import numpy as np
from msgspec import structs

from ..backend import in_chunks
from ..core.architecture import class_goodness
from ..core.learning import Augment
from ..model import Model
from .directory import alone
from .learner import Learner
from .replay import evictions
from .step import Arrays, ClassSteps, HeadSteps, UnitSteps
from .store import BUNDLES, LEARNED
from .update import Batch, Outcome, Stepped

# Takes a step from images in [0, 1] (B, C, H, W) with their labels (B,) at a rate, and gives the losses.
Take: TypeAlias = Callable[[np.ndarray, np.ndarray, float], tuple[float, ...]]

LOOK = 8  # steps for which the features that the classifier sees may be those of earlier weights


class Stream:
    """A learner's weights, changed by a step of all units at a time, and of the classifier where there is one.

    What was stored counts as learned from when its step is taken; its weights are a version after `adopt`.
    """

    def __init__(
        self,
        learner: Learner,
        rng: np.random.Generator,
        augmentation: Augment | None = None,
        stepped: Stepped = lambda: None,
    ) -> None:
        """Begin with the learner's current version. `augmentation`: by default the manifest's; `stepped` is
        called after each step."""
        self._learner, self._rng, self._stepped = learner, rng, stepped
        self._augmentation = augmentation or learner.learning.augment
        self._start, self._now, self.steps = time.perf_counter(), learner.refresh(), 0
        self._losses: tuple[float, ...] = ()  # in the last step
        self._weights = learner.weights(self._now)
        self._seen = Counter(learner.store.seen())  # counted here: in the database that takes longer and longer
        of_classes = class_goodness(learner.model.manifest.network)
        self._take = self._class_step() if of_classes else self._pair_step()

    def learn(self, images: np.ndarray, names: Sequence[str], rate: float = 1.0) -> None:
        """Store images uint8 (N, C, H, W) with the names of their classes, take one step from some of them and from
        replayed ones, at `rate` times the learning rates, and keep those that the replay policy keeps."""
        store = self._learner.store
        ids = store.add(images, names)
        self._learner.begin_rows(self._weights, ids)
        self._step(next(self._batches(ids)), rate)
        gone = evictions(store, ids, self._seen, self._rng)
        self._seen.update(store.read(ids).labels.tolist())
        store.keep(ids, gone)

    def rehearse(self, steps: int) -> None:
        """So many steps on stored examples, if there are any; the rates fall to 0 over the second half."""
        if self._learner.store.ids(BUNDLES, LEARNED):
            self._learner.begin_rows(self._weights, [])
            for step, batch in enumerate(islice(self._batches([]), steps)):
                self._step(batch, min(1.0, 2 * (1 - step / steps)))

    def adopt(self) -> Outcome:
        """Make a version of the weights as they are now, unless they are refused as an update would be."""
        with alone(self._learner.store.directory):
            outcome = self._learner.settle(
                self._now, "stream", self._tensors(), self._losses, [], self._rng, self._start
            )
        self._now = self._learner.refresh()
        return outcome

    def _batches(self, ids: Sequence[int]) -> Iterator[Batch]:
        return self._learner.batches(ids, self._augmentation, self._learner.settings, self._rng)

    def _step(self, batch: Batch, rate: float) -> None:
        self._losses = self._take(*batch, rate)
        self.steps += 1
        self._stepped()

    def _class_step(self) -> Take:
        """A step of the units, by class goodness."""
        units = ClassSteps(self._learner.gradients, self._weights, self._learner.settings)

        def take(images: np.ndarray, labels: np.ndarray, rate: float) -> tuple[float, ...]:
            units.step(images, labels, rate)
            return units.losses

        return take

    def _pair_step(self) -> Take:
        """A step of the units, by goodness of pairs, and of the classifier."""
        learner, settings, weights = self._learner, self._learner.settings, self._weights
        units = UnitSteps(learner.gradients, weights, settings, learner.learning.negatives, self._rng)
        head = HeadSteps(learner.gradients, weights, settings)
        met = np.zeros(learner.model.manifest.network.label.patterns, bool)  # labels, in some step
        looking = self._look()

        def take(images: np.ndarray, labels: np.ndarray, rate: float) -> tuple[float, ...]:
            nonlocal looking
            met[labels] = True
            if self.steps and self.steps % LOOK == 0:
                looking = self._look()
            classify = in_chunks(looking.graph("classifier"), settings.micro_batch, 1)
            features = classify({"images": images})["features"]
            logits = head.logits(features)
            logits[:, ~met] = -np.inf
            units.step(images, labels, lambda _: logits, rate)
            head.step(features, labels, rate)
            return (*units.losses, head.loss)

        return take

    def _look(self) -> Model:
        """The model with the weights as they are now."""
        return self._learner.model.with_weights(structs.replace(self._now.weights, tensors=self._tensors()))

    def _tensors(self) -> Arrays:
        """Those that differ from the bundle's, as they are now."""
        now = {tensor.name: self._weights[tensor.name].copy() for tensor in self._learner.learned}
        return {**self._now.weights.tensors, **now}
