"""Learning from examples: make them durable, update, judge, adopt (`docs/learning.md`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from msgspec import structs

from ..core.architecture import class_goodness
from ..core.bundle import HELD_BACK, REPLAY
from ..core.data import require_images, to_unit_interval
from ..core.errors import BundleError, unknown
from ..core.folders import class_name
from ..core.graphs import unit_gradient
from ..core.layers import KNOWN, learned_tensors, of_readout
from ..core.learning import PORTION, Augment
from ..core.state import Check, Weights
from ..model import Model
from .counted import Counted
from .directory import alone
from .draws import augment
from .elsewhere import elsewhere, members_of
from .forgetting import Forgotten
from .names import by_name, require_names
from .normalisation import renormalised, require_normalised
from .own_units import anew, examples_of, joined, portions
from .replay import capacity, draw_balanced, evictions, of_refused
from .rows import MOST, begin_rows
from .step import Arrays, Settings, learning_units, update_steps
from .store import BUNDLES, LEARNED, Store
from .tables import JUDGING
from .update import Batch, Outcome, Stepped, change, costs, judged, share_right
from .versions import NORMALISED, Current

ONE_BY_ONE = 64  # examples that change class statistics one by one: of more, solving anew takes less time
TOLERANCE = 0.05  # share of held-back examples that an update may cost, against the shipped weights

# Around each update or rehearsal, with its kind and the number of its steps.
Progress: TypeAlias = Callable[[Literal["update", "rehearsal"], int], AbstractContextManager[Stepped]]


def _nothing(*_: object) -> None:
    pass


class Learner:
    """A model and its state directory. `model` is the model as it is now; another one after every adopted update.

    >>> from ffruntime import Model
    >>> from ffruntime.learning.learner import Learner
    >>> model = Learner(Model("model.ff")).learn(images, ["cat"] * len(images))
    """

    def __init__(
        self,
        model: Model,
        state: Path | Literal[False] | None = None,
        settings: Settings | None = None,
        tolerance: float = TOLERANCE,
        replay_bytes: int | None = None,
        seeded: bool = True,
        frozen: bool = True,
        units: bool = False,
    ) -> None:
        """Open the state directory, by default the bundle's, or make it; without `seeded` a new one begins with no
        example to replay. With class statistics gradients leave units as they are, so that these go on to answer,
        unless it is not `frozen`; with `units` they teach these, too, and statistics begin anew, of what is stored.
        With `state=False`, what is learned and stored lives as long as the learner.

        `replay_bytes`: what stored images may take from now on. Raises `StateError`, `StorageError`, `BundleError`
        where the bundle has no gradient graphs or does not say how it learns, and what loading one raises.
        """
        bundle, manifest = model.bundle, model.manifest
        learning = learning_units(manifest.network, manifest.files)
        self.learned = learned_tensors(manifest.network, learning)
        if manifest.learning is None:
            raise BundleError(f"{model.path}: its manifest does not say how its units learn; train it again")
        self.learning = manifest.learning
        self.settings, self.tolerance = settings or Settings(), tolerance
        self._units = units and manifest.counted is not None
        self._frozen = frozen and not self._units and manifest.counted is not None
        self.shipped = model.with_weights(Weights({}, manifest.classes))
        # Its gradient graphs serve all versions. A call's memory is freed after it: it would add up.
        self.gradients = self.shipped.with_session(structs.replace(model.session, arena=False))
        first = unit_gradient(manifest.network, learning[0]).name
        self.gradients.graph(first)  # a backend that cannot run says so before anything is stored
        self._held_back = bundle.exemplars(HELD_BACK)
        self.version, self.model = 0, self.shipped
        directory = None if state is False else state or bundle.state_directory
        self.store = Store(directory, manifest, seeds=(lambda: bundle.exemplars(REPLAY)) if seeded else None)
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

    @property
    def counted(self) -> Counted | None:
        """The class statistics of the state; None where the bundle has none."""
        return self.store.counted

    def refresh(self) -> Current:
        """Make `model` that of the current version, which another process may have changed, and return it."""
        now = self.store.current()
        like = self.model if now.version == self.version else self.shipped  # whose loaded graphs go on
        self.version, self.model = now.version, like.with_weights(now.weights)
        # Features by the units of this version may be missing.
        if self.counted and (some := self.counted.without(now.version)):
            for portion in portions(some):
                x = self._seeing.examples(self.store.read(portion).pixels)
                self.counted.fill(portion, x, self.counted.units(now.version))
            now = self.store.current()
            self.model = self.model.with_weights(now.weights)
        return now

    @property
    def _seeing(self) -> Model:
        """Whose units make the features that count."""
        return self.model if self.model.counts else self.shipped

    # --- one call, or one outcome after the other

    def learn(
        self,
        images: np.ndarray,
        names: Sequence[str],
        stored: Callable[[list[int]], None] = _nothing,
        stepped: Stepped = _nothing,
        now: bool | None = None,
    ) -> Model:
        """Learn from images uint8 (N, C, H, W) and the names of their classes; the model as it is then.

        They are stored durably before anything else happens. With class statistics that is all: they count in the
        next answer. Without, or with `now`, come updates until nothing is pending, of which any may be refused.
        Raises as `updates` does; `model` then has what was adopted before.
        """
        for _ in self.updates([(images, names)], 0, stored, lambda *_: nullcontext(stepped), now):
            pass
        return self.model

    def add(self, images: np.ndarray, names: Sequence[str]) -> list[int]:
        """Store images uint8 (N, C, H, W) with the names of their classes, durably; their ids.

        With class statistics they count in the next answer of `model`. Raises `UsageError`, `StorageError`; nothing
        is stored then.
        """
        if not self.counted:
            return self.store.add(images, names)
        require_images(images, self.model.manifest.network.image.shape)
        names = require_names(names, len(images))
        before, x = self.model.weights.statistics, self._seeing.examples(images)
        ids = self.store.add(images, names, x, self.counted.units(self.version))
        now = self.store.current()
        known, after = by_name(now.weights.classes), now.weights.statistics
        if now.version == self.version and before and after and known.keys() >= set(names):
            labels = np.array([known[name] for name in names])
            if self.counted.grew(before, after):  # else another process has changed them, too
                self.model = self.model.with_weights(now.weights, (x, labels) if len(x) <= ONE_BY_ONE else None)
                return ids
        self.refresh()
        return ids

    def updates(
        self,
        portions: Iterable[tuple[np.ndarray, Sequence[str]]],
        rehearsal: int = 0,
        stored: Callable[[list[int]], None] = _nothing,
        progress: Progress = lambda *_: nullcontext(_nothing),
        now: bool | None = None,
    ) -> Iterator[Outcome]:
        """Of each portion, images and the names of their classes: store it, then learn from all that is pending.

        With class statistics an example counts as soon as it is stored, and what is pending is learned from only
        before a rehearsal, or where `now` is true. In the end come `rehearsal` steps on stored examples. `stored`
        is called with a portion's ids when they are durable. The next portion is asked for, and the next update
        begins, when the next outcome is. Raises `StateError` where another process is learning, `StorageError`, and
        `UsageError` for images or classes that cannot be stored.
        """
        network = self.model.manifest.network
        steps = update_steps(network, self.settings)
        at_once = bool(rehearsal) or not self.counted if now is None else now
        for images, names in portions:
            if len(images):
                stored(self.add(images, names))
            if not at_once:
                self._make_room()
            while at_once and (outcome := _within(progress("update", steps), self.update)):
                yield outcome
        if rehearsal:
            settings = self._of_rehearsal(rehearsal)
            rehearse = progress("rehearsal", update_steps(network, settings))
            if outcome := _within(rehearse, lambda stepped: self.rehearse(rehearsal, stepped)):
                yield outcome

    def update(self, stepped: Stepped = _nothing) -> Outcome | None:
        """Learn from pending examples, at most `PORTION`; None where there are none.

        Raises `StateError` where another process is learning.
        """
        with alone(self.store.directory):
            now = self.refresh()
            ids = self.store.pending(PORTION)
            return self._attempt(now, ids, "update", self.settings, stepped) if ids else None

    def rehearse(self, steps: int, stepped: Stepped = _nothing) -> Outcome | None:
        """`steps` on stored examples alone, drawn evenly over the classes; None where nothing is stored.

        For a device at rest. Raises `StateError` where another process is learning.
        """
        with alone(self.store.directory):
            now = self.refresh()
            some = self.store.ids(BUNDLES, LEARNED)
            return self._attempt(now, [], "rehearsal", self._of_rehearsal(steps), stepped) if some else None

    def forget(self, examples: Sequence[int] = (), name: str | None = None) -> Forgotten:
        """Take back stored examples by their ids, or all that a class `name` has.

        Class statistics are those without them, weights those of the newest version that these were made from and
        that cannot have seen any.

        Raises `UsageError`, with nothing changed, for what cannot be taken back, `StateError` where another process
        is learning.
        """
        with alone(self.store.directory):
            classes = by_name(self.store.classes())
            if name is not None and class_name(name) not in classes:
                raise unknown("class", name, classes)
            found = self.store.forget(examples, None if name is None else classes[class_name(name)])
            self.refresh()
        return found

    def apply(
        self, file: Path, force: bool = False, check: Check | None = None, own: Path | None = None
    ) -> Outcome:
        """Make a version of what other devices have learned (`docs/state.md`), judged like an update.

        `own`: the file of this state in it, whose class statistics are taken out; `check`: as for `read_state`.
        With `force` it is adopted whatever it costs. Raises what `elsewhere` and `Store.adopt` do, `BundleError`.
        """
        start = time.perf_counter()
        member, mine = members_of(self.model.bundle, check, file, own)
        with alone(self.store.directory):
            now, shipped = self.refresh(), self._shipped()
            some = elsewhere(self.store, self.model.bundle, member, mine)
            after = share_right(self.shipped.with_weights(some.weights), self._held_back)
            adopted = force or not costs(shipped, after, self.tolerance)
            if adopted:
                number = self.store.adopt(
                    now.version, "applied", some.weights.tensors, (), (), shipped, after, some.state, some.told
                )
                self.refresh()
            else:
                number = self.store.refuse(now.version, "applied", (), shipped, after)
        seconds = time.perf_counter() - start
        return Outcome(number, adopted, (), shipped, after, (), 0, seconds, own=some.own)

    def renormalise(self, images: np.ndarray, force: bool = False) -> Outcome:
        """Make a version whose normalisation statistics are those of images uint8 (N, C, H, W), whatever they show.

        It is judged like an update, and class statistics begin anew; with `force` whatever it costs. Raises
        `UsageError` where there are no such statistics, or no images, `StateError` where another is learning.
        """
        start = time.perf_counter()
        require_normalised(self.model)
        require_images(images, self.model.manifest.network.image.shape)
        with alone(self.store.directory):
            now, rng = self.refresh(), np.random.default_rng(0)
            made = {**now.weights.tensors, **renormalised(self.model, images)}
            return self.settle(now, NORMALISED, made, (), (), rng, start, force)

    def _make_room(self) -> None:
        """Where no update follows, pending examples beyond what may be stored take the place of others, by the
        replay policy. Some more leave than have to: else every further example would take a transaction."""
        most = capacity(self.store)
        if self.store.count() > most and (pending := self.store.pending()):
            rng = np.random.default_rng([len(pending), *pending[-1:]])
            self.store.keep(pending, evictions(self.store, pending, self.store.seen(), rng, min(16, most // 50)))

    def _of_rehearsal(self, steps: int) -> Settings:
        return structs.replace(self.settings, steps=steps, head_steps=steps)

    # --- what an update is made of

    def weights(self, now: Current) -> Arrays:
        """All tensors of a version; those that learning changes are copies."""
        weights = {**self.model.bundle.weights(), **now.weights.tensors}
        return {**weights, **{tensor.name: weights[tensor.name].copy() for tensor in self.learned}}

    def batches(
        self, ids: Sequence[int], augmentation: Augment, settings: Settings, rng: np.random.Generator
    ) -> Iterator[Batch]:
        """Batches without end: a share of the examples `ids`, the others replayed, evenly over the classes."""
        examples, replay = self.store.read(ids), self.store.ids(BUNDLES, LEARNED)
        fresh = round(settings.batch * (settings.fresh if ids else 0.0)) if replay else settings.batch
        while True:
            batch = examples.take(rng.choice(len(ids), fresh, replace=fresh > len(ids)))
            if fresh < settings.batch:
                batch = joined(batch, self.store.read(draw_balanced(replay, settings.batch - fresh, rng)))
            yield to_unit_interval(augment(augmentation, batch.pixels, rng)), batch.labels

    def begin_rows(self, weights: Arrays, ids: Sequence[int]) -> None:
        """With class goodness, give the classes of stored examples and pending ones, `ids`, that have no row one,
        in place in `weights`."""
        if not class_goodness(self.model.manifest.network):
            return
        by_label = self.store.ids(BUNDLES, LEARNED)
        for id, label in zip(ids, self.store.read(ids).labels.tolist(), strict=True):
            by_label.setdefault(label, []).append(id)
        if not (weights[KNOWN][list(by_label)] > 0).all():
            classes = [self.store.read(some[-MOST:]) for some in by_label.values()]
            begin_rows(self.gradients, weights, classes, self.settings.micro_batch)

    def settle(
        self,
        now: Current,
        kind: str,
        tensors: Arrays,
        losses: tuple[float, ...],
        ids: Sequence[int],
        rng: np.random.Generator,
        start: float,
        force: bool = False,
    ) -> Outcome:
        """Judge what was made of the version `now`, begun at `start`, and adopt or refuse it; with `force` whatever
        it costs."""
        shipped, made = self._shipped(), self.model.with_weights(structs.replace(now.weights, tensors=tensors))
        begun, judging, dropped = None, self.store.read(self._judging()), None
        finite = all(np.isfinite(tensor).all() for tensor in tensors.values())
        normalised = kind == NORMALISED and self.counted is not None
        if finite and (normalised or (self._units and kind != "stream")):
            begun = anew(self.store, made)
            dropped = max(0, examples_of(self.model) - len(begun.ids))
            made = made.with_weights(structs.replace(made.weights, statistics=begun.statistics, alone=True))
            judging = joined(self._held_back, judging)
        after, ours = share_right(made, self._held_back), judged(self.model, made, judging)
        harmful = costs(shipped, after, self.tolerance) or (ours is not None and ours.harmful(self.tolerance))
        worth = not begun or normalised or (ours is not None and ours.better)
        adopted = finite and (force or (not harmful and worth))
        if adopted:
            gone = evictions(self.store, ids, self.store.seen(), rng)
            kind = "units" if begun and not normalised else kind
            version = self.store.adopt(now.version, kind, tensors, ids, gone, shipped, after, told=begun)
            self.refresh()
        else:
            gone = of_refused(self.store, ids)
            version = self.store.refuse(now.version, kind, ids, shipped, after, gone)
        seconds = time.perf_counter() - start
        return Outcome(version, adopted, tuple(ids), shipped, after, losses, len(gone), seconds, ours, dropped)

    def _attempt(self, now: Current, ids: list[int], kind: str, settings: Settings, stepped: Stepped) -> Outcome:
        """Change the weights, judge them, and adopt or refuse them."""
        start = time.perf_counter()
        rng = np.random.default_rng([len(self.store.history()), *ids[:1]])  # another one for each attempt
        tensors, losses = self._changed(now, ids, settings, rng, stepped)
        return self.settle(now, kind, tensors, losses, ids, rng, start)

    def _changed(
        self, now: Current, ids: list[int], settings: Settings, rng: np.random.Generator, stepped: Stepped
    ) -> tuple[Arrays, tuple[float, ...]]:
        """The tensors that differ from the bundle's after the update, and the last losses."""
        weights = self.weights(now)
        self.begin_rows(weights, ids)
        batches = self.batches(ids, self.learning.augment, settings, rng)
        frozen = self._frozen
        losses = change(self.model, self.gradients, weights, batches, self.learning, settings, rng, stepped, frozen)
        learned = (tensor for tensor in self.learned if not frozen or tensor.unit is None or of_readout(tensor))
        tensors = {tensor.name: weights[tensor.name] for tensor in learned}
        return {**now.weights.tensors, **tensors}, losses

    def _judging(self) -> list[int]:
        """Ids of the device's own judging examples."""
        return [id for some in self.store.ids(JUDGING).values() for id in some]

    def _shipped(self) -> float | None:
        """Share of the held-back exemplars that the bundle's own weights classify rightly, computed once in a
        state's life."""
        share = self.store.setting("shipped")
        if share is None:
            copy = self.shipped.with_weights(self.shipped.weights)  # whose graphs are not kept
            share = share_right(copy, self._held_back)
            if share is not None:
                self.store.set("shipped", share)
        return share


def _within(progress: AbstractContextManager[Stepped], work: Callable[[Stepped], Outcome | None]) -> Outcome | None:
    """What comes of some work, shown while it is done."""
    with progress as stepped:
        return work(stepped)
