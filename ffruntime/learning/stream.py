"""Learning while examples keep coming: one step of everything for each portion, where an update would be too slow.

The examples are stored, replayed and evicted as by `Learner.update`. Moments are kept from step to step, and
nothing is judged before it is to be adopted.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from msgspec import structs

from ..backend import in_chunks
from ..core.learning import Augment
from ..model import Model
from .directory import alone
from .learner import Arrays, Batch, Learner, Outcome, Stepped
from .step import HeadSteps, UnitSteps
from .store import BUNDLES, LEARNED

LOOK = 8  # steps for which the features that the classifier sees may be those of earlier weights


class Stream:
    """A learner's weights, changed by a step of all units and of the classifier at a time.

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
        self._weights = learner.weights(self._now)
        negatives, settings = learner.learning.negatives, learner.settings
        self._units = UnitSteps(learner.shipped, self._weights, settings, negatives, rng)
        self._head = HeadSteps(learner.shipped, self._weights, settings)
        self._met = np.zeros(learner.model.manifest.network.label.patterns, bool)  # labels, in some step
        self._seen = Counter(learner.store.seen())  # counted here: in the database that takes longer and longer
        self._looking = self._look()

    def learn(self, images: np.ndarray, names: Sequence[str], rate: float = 1.0) -> None:
        """Store images uint8 (N, C, H, W) with the names of their classes, take one step from some of them and from
        replayed ones, at `rate` times the learning rates, and keep those that the replay policy keeps."""
        store = self._learner.store
        ids = store.add(images, names)
        self._step(next(self._batches(ids)), rate)
        gone = self._learner.evictions(ids, self._seen, self._rng)
        self._seen.update(store.read(ids).labels.tolist())
        store.keep(ids, gone)

    def rehearse(self, steps: int) -> None:
        """So many steps on stored examples, if there are any; the rates fall to 0 over the second half."""
        if self._learner.store.ids(BUNDLES, LEARNED):
            for step, batch in enumerate(islice(self._batches([]), steps)):
                self._step(batch, min(1.0, 2 * (1 - step / steps)))

    def adopt(self) -> Outcome:
        """Make a version of the weights as they are now, unless they are refused as an update would be."""
        losses = (*self._units.losses, self._head.loss)
        with alone(self._learner.store.directory):
            outcome = self._learner.settle(self._now, "stream", self._tensors(), losses, [], self._rng, self._start)
        self._now = self._learner.refresh()
        return outcome

    def _batches(self, ids: Sequence[int]) -> Iterator[Batch]:
        return self._learner.batches(ids, self._augmentation, self._learner.settings, self._rng)

    def _step(self, batch: Batch, rate: float) -> None:
        images, labels = batch
        self._met[labels] = True
        classify = in_chunks(self._looking.graph("classifier"), self._learner.settings.micro_batch, 1)
        features = classify({"images": images})["features"]
        logits = self._head.logits(features)
        logits[:, ~self._met] = -np.inf
        self._units.step(images, labels, lambda _: logits, rate)
        self._head.step(features, labels, rate)
        self.steps += 1
        self._stepped()
        if self.steps % LOOK == 0:
            self._looking = self._look()

    def _look(self) -> Model:
        """The model with the weights as they are now."""
        return self._learner.model.with_weights(structs.replace(self._now.weights, tensors=self._tensors()))

    def _tensors(self) -> Arrays:
        """Those that differ from the bundle's, as they are now."""
        now = {tensor.name: self._weights[tensor.name].copy() for tensor in self._learner.learned}
        return {**self._now.weights.tensors, **now}
