"""Learning from examples: make them durable, update, judge, adopt (`docs/learning.md`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from ..backend import in_chunks
from ..core import transition as bundle
from ..core.state import Weights, read_state
from ..model import Model
from .replay import draw_balanced, evictions
from .store import BUNDLES, LEARNED, REFUSED, Current, Store, alone
from .update import Arrays, Settings, learned_names, learning_units, update_head, update_units

AT_ONCE = 64  # examples that one update takes
TOLERANCE = 0.05  # share of held-back examples that an update may cost, against the shipped weights
CALIBRATION, REPLAY, HELD_BACK = 0, 1, 2  # parts of the exemplars


class Outcome(Struct, frozen=True):
    """What came of an update, or of a state that was applied: that has no examples and no losses."""

    version: int
    adopted: bool
    examples: tuple[int, ...]  # ids of those learned from
    before: float | None  # share of the held-back examples that the shipped weights classify rightly
    after: float | None  # and the new weights; None: the bundle has none to hold back
    losses: tuple[float, ...]  # of the units that learn, in the last step, and of the classifier
    evicted: int
    seconds: float


class Learner:
    """A model and its state directory. `model` is the model as it is now; it changes with every adopted update."""

    def __init__(
        self,
        model: Model,
        state: Path,
        settings: Settings | None = None,
        tolerance: float = TOLERANCE,
        replay_bytes: int | None = None,
        seeded: bool = True,
    ) -> None:
        """Open the state directory, or make it; without `seeded` a new one begins with no example to replay.

        `replay_bytes`: what stored images may take from now on. Raises `StateError`, `StorageError`, `BundleError`
        where the bundle has no gradient graphs, and what loading one raises.
        """
        self.units = learning_units(model.manifest.network, model.manifest.files)
        self.settings, self.tolerance = settings or Settings(), tolerance
        own = Weights({}, model.manifest.classes)
        self._graphs = model.with_weights(own)  # whose gradient graphs serve all versions
        self._graphs.graph("gradient_head")  # a backend that cannot run says so before anything is stored
        self._held_back = exemplars(model, HELD_BACK)
        self.version, self.model = 0, self._graphs
        self.store = Store(state, model.manifest, seeds=(lambda: exemplars(model, REPLAY)) if seeded else None)
        try:
            if replay_bytes is not None:
                self.store.set("replay_bytes", replay_bytes)
            self.refresh()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the state directory."""
        self.store.close()

    def refresh(self) -> Current:
        """Make `model` that of the current version, which another process may have changed, and return it."""
        now = self.store.current()
        like = self.model if now.version == self.version else self._graphs  # whose loaded graphs go on
        self.version, self.model = now.version, like.with_weights(Weights(now.tensors, now.classes, now.doubtful))
        return now

    def learn(
        self,
        images: np.ndarray,
        labels: Sequence[str],
        stored: Callable[[list[int]], None] = lambda _: None,
        stepped: Callable[[], None] = lambda: None,
    ) -> Iterator[Outcome]:
        """Store examples, uint8 (N, C, H, W), durably; then learn from all that are pending, some at a time.

        `stored` is called with their ids when they are durable. Nothing happens before the first outcome is asked
        for.
        """
        if len(images):
            stored(self.store.add(images, labels))
        while outcome := self.update(stepped):
            yield outcome

    def update(self, stepped: Callable[[], None] = lambda: None) -> Outcome | None:
        """Learn from pending examples, at most `AT_ONCE`; None where there are none.

        Raises `StateError` where another process is learning.
        """
        with alone(self.store.directory):
            now = self.refresh()
            ids = self.store.pending(AT_ONCE)
            return self._attempt(now, ids, "update", self.settings, stepped) if ids else None

    def rehearse(self, steps: int, stepped: Callable[[], None] = lambda: None) -> Outcome | None:
        """`steps` on stored examples alone, drawn evenly over the classes; None where nothing is stored.

        For a device at rest. Raises `StateError` where another process is learning.
        """
        settings = msgspec.structs.replace(self.settings, steps=steps, head_steps=steps)
        with alone(self.store.directory):
            now = self.refresh()
            some = self.store.ids(BUNDLES, LEARNED)
            return self._attempt(now, [], "rehearsal", settings, stepped) if some else None

    def _attempt(
        self, now: Current, ids: list[int], kind: str, settings: Settings, stepped: Callable[[], None]
    ) -> Outcome:
        """Change the weights, judge them, and adopt or refuse them."""
        start, shipped = time.perf_counter(), self._shipped()
        rng = np.random.default_rng([len(self.store.history()), *ids[:1]])  # another one for each attempt
        weights, losses = self._weights(now, ids, settings, rng, stepped)
        after = self._judge(self.model.with_weights(Weights(weights, now.classes, now.doubtful)))
        if self._harmful(shipped, after) or not all(np.isfinite(tensor).all() for tensor in weights.values()):
            stored = sum(map(len, self.store.ids(BUNDLES, LEARNED).values()))
            gone = self._beyond_budget(self._refused(), stored + len(ids))  # those of now can be tried again
            version = self.store.refuse(now.version, kind, ids, shipped, after, gone)
            seconds = time.perf_counter() - start
            return Outcome(version, False, tuple(ids), shipped, after, losses, len(gone), seconds)
        gone = self._evictions(ids, rng)
        version = self.store.adopt(now.version, kind, weights, ids, gone, shipped, after)
        self.refresh()
        seconds = time.perf_counter() - start
        return Outcome(version, True, tuple(ids), shipped, after, losses, len(gone), seconds)

    def apply(self, file: Path, force: bool = False) -> Outcome:
        """Make a version of what another device has learned (`docs/state.md`), judged like an update.

        With `force` it is adopted whatever it costs. Raises `BundleError` for a file that is damaged or of another
        bundle, `UsageError` where a pattern means one class here and another there, `StateError` where another
        process is learning.
        """
        start = time.perf_counter()
        weights, state = read_state(file, self.model.manifest)
        with alone(self.store.directory):
            now, shipped = self.refresh(), self._shipped()
            after = self._judge(self._graphs.with_weights(weights))
            adopted = force or not self._harmful(shipped, after)
            if adopted:
                number = self.store.adopt(now.version, "applied", weights.tensors, (), (), shipped, after, state)
                self.refresh()
            else:
                number = self.store.refuse(now.version, "applied", (), shipped, after)
        return Outcome(number, adopted, (), shipped, after, (), 0, time.perf_counter() - start)

    def _weights(
        self,
        now: Current,
        ids: list[int],
        settings: Settings,
        rng: np.random.Generator,
        stepped: Callable[[], None],
    ) -> tuple[Arrays, tuple[float, ...]]:
        """The tensors that learning changes, after the update, and the last losses."""
        model = self.model
        network, learning = model.manifest.network, model.manifest.learning
        assert learning  # a bundle with gradient graphs says what they are of
        names = learned_names(network, self.units)
        weights = {**bundle.read_weights(model.path, model.manifest), **now.tensors}
        weights |= {name: weights[name].copy() for name in names}
        draw = self._draw(ids, rng)
        units = update_units(
            network,
            self._graphs.graph,
            self.units,
            weights,
            draw,
            self._plausibility(now),
            settings,
            learning,
            rng,
            stepped,
        )
        changed = {name: weights[name] for name in names if not name.startswith("head.")}
        deeper = model.with_weights(Weights({**now.tensors, **changed}, model.classes))

        def features(images: np.ndarray) -> np.ndarray:
            return in_chunks(deeper.graph("classifier"), settings.micro_batch, 1)({"images": images})["features"]

        head = update_head(self._graphs.graph, features, weights, draw, settings, learning, rng, stepped)
        return {**now.tensors, **{name: weights[name] for name in names}}, (*units, head)

    def _draw(self, ids: list[int], rng: np.random.Generator) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
        """Batches: a share of the pending examples, the others replayed, evenly over the classes."""
        images, labels = self.store.read(ids)
        replay, share = self.store.ids(BUNDLES, LEARNED), self.settings.fresh if ids else 0.0

        def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
            fresh = round(count * share) if replay else count
            chosen = rng.choice(len(ids), fresh, replace=fresh > len(ids))
            if fresh == count:
                return images[chosen], labels[chosen]
            old_images, old_labels = self.store.read(draw_balanced(replay, count - fresh, rng))
            return np.concatenate([images[chosen], old_images]), np.concatenate([labels[chosen], old_labels])

        return draw

    def _plausibility(self, now: Current) -> Callable[[np.ndarray], np.ndarray]:
        """What the classifier says of images, one row of scores each.

        Classes that it does not know well are as plausible as the best of the others, spare patterns not at all.
        """
        known = len(now.classes)
        doubtful = [label for label, name in enumerate(now.classes) if name in self.model.undertrained]
        classify = in_chunks(self.model.graph("classifier"), self.settings.micro_batch, 1)

        def scores(images: np.ndarray) -> np.ndarray:
            logits = classify({"images": images})["logits"]
            logits[:, known:] = -np.inf
            logits[:, doubtful] = logits.max(1, keepdims=True)
            return logits

        return scores

    def _judge(self, model: Model) -> float | None:
        """Share of the held-back exemplars that a model classifies rightly, by its best mode."""
        images, labels = self._held_back
        if not len(images):
            return None
        return float(np.mean(model.scores(images).argmax(1) == labels))

    def _harmful(self, shipped: float | None, after: float | None) -> bool:
        """Whether held-back examples cost more than is tolerated."""
        return shipped is not None and after is not None and after < shipped - self.tolerance

    def _shipped(self) -> float | None:
        """The same of the bundle's own weights, computed once in a state's life."""
        share = self.store.setting("shipped")
        if share is None and (share := self._judge(self._graphs.with_weights(self._graphs.weights))) is not None:
            self.store.set("shipped", share)
        return share

    def _evictions(self, ids: list[int], rng: np.random.Generator) -> list[int]:
        """Stored examples that have to make room: of refused updates first, then by the reservoir's rule."""
        stored, refused = self.store.ids(BUNDLES, LEARNED), self._refused()
        _, labels = self.store.read(ids)
        arrived = list(zip(ids, labels.tolist(), strict=True))
        gone = self._beyond_budget(refused, len(ids) + sum(map(len, stored.values())))
        capacity = self._capacity() - (len(refused) - len(gone))
        return [*gone, *evictions(stored, self.store.seen(), arrived, capacity, rng)]

    def _beyond_budget(self, refused: list[int], others: int) -> list[int]:
        """The oldest examples of refused updates, as many as there is no room for beside `others`."""
        return refused[: max(0, others + len(refused) - self._capacity())]

    def _capacity(self) -> int:
        """Examples that may be stored."""
        return int(self.store.setting("replay_bytes") or 0) // int(np.prod(self.model.manifest.network.image.shape))

    def _refused(self) -> list[int]:
        """Ids of examples of refused updates, oldest first."""
        return sorted(id for some in self.store.ids(REFUSED).values() for id in some)


def exemplars(model: Model, part: int) -> tuple[np.ndarray, np.ndarray]:
    """Exemplars of a part: images uint8 (E, C, H, W), labels int64 (E,); none where the bundle has none."""
    shape = model.manifest.network.image.shape
    if bundle.EXEMPLARS not in model.manifest.files:
        return np.empty((0, *shape), np.uint8), np.empty(0, np.int64)
    tensors = bundle.read_tensors(model.path, model.manifest, bundle.EXEMPLARS)
    chosen = tensors["part"] == part
    return tensors["images"][chosen], tensors["labels"][chosen]
