"""The work: pictures are answered by threads, with the model as it is; one learner makes the next one meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
from msgspec import Struct

from ..answers import contradicts
from ..core.errors import BundleError, StateError, StorageError
from ..core.folders import class_name
from ..learning.directory import export, reset
from ..learning.learner import Learner
from ..learning.names import by_name, near_miss
from ..learning.step import Settings as StepSettings
from ..learning.watch import stamp
from ..model import Model
from ..pictures.picture import Prepared
from ..signing import required
from . import pictures, standing
from .events import Events
from .jobs import Jobs, Kind, Task, stopping
from .refusals import Refused, busy
from .shapes import (
    Classified,
    Confirm,
    Examples,
    Explained,
    Job,
    Limits,
    Said,
    Status,
    Versions,
)

T = TypeVar("T")
CONFIRM = 60.0  # seconds in which everything may be forgotten after it was asked for


class Settings(Struct, frozen=True):
    """What the work may take."""

    limits: Limits
    memory: int  # bytes that reading a picture may take beyond an ordinary one
    workers: int  # threads that answer
    unsure: float
    steps: StepSettings = StepSettings()  # of an update
    camera: bool = False


class Work:
    """The model as it is, its learner, and who waits for them. Used in the event loop's thread."""

    def __init__(self, model: Model, directory: Path, settings: Settings, private: Mapping[str, str]) -> None:
        """`model` as shipped. Raises `StateError` for a state that is damaged or of another bundle, `UsageError`
        for trusted keys that cannot be used.

        Where the bundle cannot learn, or the state cannot be written, it only answers, and `learner` is None.
        """
        self.settings, self.directory, self.private = settings, directory, private
        self._shipped, self.why, self._trusted, self.known = model, "", required(None), standing.Known()
        self.learner: Learner | None = None
        try:
            self.learner = self._begun()
            self.model, self.known = self.learner.model, self._read()
        except (BundleError, StorageError) as error:
            self.why, self.model = str(error), Model(model.bundle, session=model.session, state=directory)
        self.events = Events()
        self.jobs = Jobs(settings.limits.jobs, self._changed, private)
        self._pool = ThreadPoolExecutor(settings.workers, "answers")
        self._in_turn = 0  # pictures that wait or are being answered
        self._confirm: tuple[str, float] | None = None
        self._stamp = stamp(directory)

    def _begun(self) -> Learner:
        return Learner(self._shipped, self.directory, self.settings.steps)

    # --- answers

    async def classify(self, data: bytes, unsure: float | None, all_figures: bool, began: float) -> Classified:
        """Answers to a picture. Raises `Refused`, `ImageError`."""
        rate = self.settings.unsure if unsure is None else unsure
        model, version = self.model, self.known.version

        def work() -> Classified:
            found = pictures.prepared(model, data, self.settings.memory, all_figures)
            answers = pictures.answered(model, found, rate)
            return Classified(version, (time.perf_counter() - began) * 1000, answers)

        return await self._answer(work)

    async def explain(self, data: bytes, label: str | None) -> Explained:
        """Which pixels the answer to a picture rests on. Raises `Refused`, `ImageError`, `UsageError`."""
        model = self.model

        def work() -> Explained:
            (found,) = pictures.prepared(model, data, self.settings.memory)
            return pictures.explained(model, found.image, None if label is None else class_name(label))

        return await self._answer(work)

    async def _answer(self, work: Callable[[], T]) -> T:
        """Have something done by a thread that answers. Raises `Refused` where too many wait."""
        if self.jobs.stopping.is_set():
            raise stopping()
        if self._in_turn >= self.settings.workers + self.settings.limits.waiting:
            raise busy(f"{self._in_turn} pictures wait already")
        self._in_turn += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._in_turn -= 1

    @property
    def in_turn(self) -> int:
        """Pictures that wait or are being answered."""
        return self._in_turn

    # --- learning

    async def learn(
        self, files: Sequence[bytes], label: str, update: str, yes: bool, new: bool
    ) -> tuple[Task, list[str]]:
        """Begin to learn what pictures show, and what the network is shown of them.

        Raises `Refused` where a picture looks like another class or a label like another one, `ImageError`.
        """
        learner, model, name = self._able(), self.model, class_name(label)
        known = by_name(model.classes)
        if not new and name not in known and (near := near_miss(name, list(known))):
            raise Refused(409, "near", f"'{name}' is no class yet, and nearly '{near}': say that, or new=true")

        def work() -> tuple[list[Prepared], tuple[Said, ...]]:
            found = [pictures.prepared(model, data, self.settings.memory)[0] for data in files]
            answers = model.classify_batch(np.stack([one.image for one in found]), unsure=self.settings.unsure)
            doubted = [index for index, a in enumerate(answers) if contradicts(a, name, model.manifest.classes)]
            if doubted and not yes:
                shown = answers[doubted[0]].label
                raise Refused(
                    409,
                    "contradicted",
                    f"picture {doubted[0] + 1} of {len(found)} looks like '{shown}', very probably: "
                    f"yes=true teaches it as '{name}'",
                )
            return found, pictures.said(answers)

        found, before = await self._answer(work)
        images = np.stack([one.image for one in found])
        now = {"now": True, "rest": False, "auto": None}[update]

        def learn(task: Task) -> None:
            task.update(before=before)
            portions = [(images, [name] * len(images))]
            for outcome in learner.updates(portions, 0, partial(self._stored, task), task.progress, now):
                task.outcome(outcome)
            after = learner.model.classify_batch(images, unsure=self.settings.unsure)
            task.update(after=pictures.said(after))

        task = self._start("learn", learn, name, name not in known)
        return task, [pictures.image_uri(image) for image in images]

    def _stored(self, task: Task, ids: list[int]) -> None:
        """In the learner's thread: examples are durable."""
        self.known = self._read()
        task.update(examples=tuple(ids))

    def resume(self) -> None:
        """Learn from what is stored and pending, where that does not count at once."""
        if self.learner and not self.learner.counted and self.learner.store.pending():
            self._start("resume", self._update(0))

    def rehearse(self, steps: int) -> Task:
        """Begin to rehearse what is stored."""
        self._able()
        return self._start("rehearse", self._update(steps))

    def _update(self, rehearsal: int) -> Callable[[Task], None]:
        def update(task: Task) -> None:
            for outcome in self._able().updates([(np.empty(0), [])], rehearsal, progress=task.progress):
                task.outcome(outcome)

        return update

    def rollback(self, version: int | None) -> Task:
        """Begin to go back to a version, by default the one before."""
        learner = self._able()

        def back(_: Task) -> None:
            learner.store.rollback(version)
            learner.refresh()

        return self._start("rollback", back)

    def forget(self, ids: Sequence[int], label: str | None) -> Task:
        """Begin to take back examples, or all of a class."""
        learner = self._able()
        if bool(ids) == (label is not None):
            raise Refused(400, "request", "forget: name examples by their ids, or a class by its label")

        def forget(task: Task) -> None:
            task.update(examples=learner.forget(ids, label).examples)

        return self._start("forget", forget, label)

    def reset(self, confirm: str | None) -> Task | Confirm:
        """Begin to forget everything; first it is asked whether that is meant."""
        learner = self._able()
        if confirm is None:
            self._confirm = secrets.token_urlsafe(12), time.monotonic() + CONFIRM
            return Confirm(self._confirm[0], sum(self.known.stored.values()), self.known.versions)
        expected, self._confirm = self._confirm, None
        if (
            not expected
            or not secrets.compare_digest(confirm.encode(), expected[0].encode())
            or time.monotonic() > expected[1]
        ):
            raise Refused(409, "confirm", "that is not what was to be confirmed, or too late: ask again")

        def forget(_: Task) -> None:
            learner.close()
            try:
                reset(self.directory)
            finally:
                self.learner = self._begun()

        return self._start("reset", forget)

    def apply(self, data: bytes, force: bool) -> Task:
        """Begin to make a version of a state file."""
        learner = self._able()

        def apply(task: Task) -> None:
            with TemporaryDirectory(prefix="ffedge-state-") as folder:
                file = Path(folder) / "sent.state"
                file.write_bytes(data)
                try:
                    task.outcome(learner.apply(file, force, self._trusted))
                except BundleError as error:
                    raise Refused(422, "file", str(error).removeprefix(f"{file}: ")) from error

        return self._start("import", apply)

    async def export(self) -> bytes:
        """What was learned, as a state file."""
        learner = self._able()

        def work() -> bytes:
            with TemporaryDirectory(prefix="ffedge-state-") as folder:
                file = Path(folder) / "learned.state"
                export(learner.store, self._shipped.bundle, file)
                return file.read_bytes()

        return await self._answer(work)

    def _able(self) -> Learner:
        if not self.learner:
            raise Refused(422, "usage", f"nothing can be learned here: {self.why}")
        return self.learner

    def _start(self, kind: Kind, work: Callable[[Task], None], label: str | None = None, new: bool = False) -> Task:
        def whole(task: Task) -> None:
            try:
                work(task)
            finally:
                self._publish()
            task.update(version=self.known.version)

        return self.jobs.start(kind, whole, label, new)

    def _publish(self) -> None:
        """In the learner's thread: the model as it is now answers from now on, once it can at once."""
        if not self.learner:
            return
        model = self.learner.model
        if model is not self.model:
            with contextlib.suppress(BundleError):  # which whoever asks next is told
                model.classify_batch(np.zeros((1, *model.manifest.network.image.shape), np.uint8))
        self.model, self.known, self._stamp = model, self._read(), stamp(self.directory)

    def _read(self) -> standing.Known:
        """In the learner's thread: what there is to know of the state."""
        assert self.learner
        return standing.known(self.learner.store)

    async def look(self) -> None:
        """Take what another process has learned meanwhile."""
        if not self.learner or self.jobs.open() or stamp(self.directory) == self._stamp:
            return

        def refresh() -> None:
            assert self.learner
            try:
                self.learner.refresh()
            except StateError:  # another process has reset it
                self.learner.close()
                self.learner = self._begun()
            self._publish()

        with contextlib.suppress(StateError, StorageError, BundleError):
            await self.jobs.quietly(refresh)
            self.events.tell("status", self.status())

    # --- how it is

    def _changed(self, job: Job) -> None:
        """In the loop: a job has gone on."""
        self.events.tell("job", job)
        if job.state not in ("queued", "running") or job.examples:
            self.events.tell("status", self.status())

    def status(self) -> Status:
        """How the server is now."""
        settings = self.settings
        return standing.status(
            self.model, self.known, self.learner, self.jobs.open(), settings.camera, settings.limits
        )

    async def examples(self, before: int | None, most: int) -> Examples:
        """Stored examples below an id, newest first."""
        return await self._answer(partial(standing.examples, self._able().store, before, most))

    async def versions(self) -> Versions:
        """All versions of the weights."""
        return (
            await self._answer(partial(standing.versions, self.learner.store)) if self.learner else Versions(0, ())
        )

    def close(self) -> None:
        """End what runs, and close the state."""
        self.jobs.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.jobs.wait()
        if self.learner:
            self.learner.close()
