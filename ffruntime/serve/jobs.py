"""Jobs of the one learner: what is asked for, in turn, and how far each of them is."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

from msgspec import structs

from ..learning.learner import Outcome
from ..terminal import held_back_text
from .refusals import Refused, busy, refusal
from .shapes import Change, Job

KEPT = 100  # jobs that can be read of when they are done
OFTEN = 0.2  # seconds between two reports of progress
Kind: TypeAlias = Literal["learn", "resume", "rehearse", "rollback", "forget", "reset", "import"]


class Stopped(Exception):
    """The server ends: an update is given up, its examples stay pending."""


class Task:
    """A job in the making. `job` is what there is to say of it; it is changed in the learner's thread."""

    def __init__(self, job: Job, changed: Callable[[Job], None], stopping: threading.Event) -> None:
        self.job = job
        self.acknowledged = asyncio.Event()  # what it was asked for is durable, or it has ended
        self.ended = asyncio.Event()
        self.refused: Refused | None = None  # why it failed
        self._changed, self._stopping, self._told = changed, stopping, 0.0

    def update(self, **fields: Any) -> None:
        """Say something more of the job."""
        self.job = structs.replace(self.job, **fields)
        self._told = time.monotonic()
        self._changed(self.job)

    def failed(self, refused: Refused) -> None:
        """It ends with an error."""
        self.refused = refused
        self.update(state="failed", step=0, steps=0, error=refused.body.error)

    @contextmanager
    def progress(self, _kind: str, steps: int) -> Iterator[Callable[[], None]]:
        """Around an update, as `Learner.updates` asks for it."""
        self.update(step=0, steps=steps)

        def stepped() -> None:
            if self._stopping.is_set():
                raise Stopped
            job = structs.replace(self.job, step=self.job.step + 1)
            if time.monotonic() - self._told > OFTEN or job.step == steps:
                self.update(step=job.step)
            else:
                self.job = job

        yield stepped
        self.update(step=0, steps=0)

    def outcome(self, outcome: Outcome) -> None:
        """An update was judged."""
        reason = None if outcome.adopted else f"it cost too much: {held_back_text(outcome.before, outcome.after)}"
        change = Change(outcome.version, outcome.adopted, outcome.before, outcome.after, outcome.seconds, reason)
        self.update(changes=(*self.job.changes, change))


class Jobs:
    """The queue of the learner, which has a thread of its own. Used in the event loop's thread."""

    def __init__(self, waiting: int, changed: Callable[[Job], None], private: Mapping[str, str]) -> None:
        """`waiting`: jobs that may wait. `changed` is called in the loop whenever there is more to say of one."""
        self.stopping = threading.Event()
        self._waiting, self._changed, self._private = waiting, changed, private
        self._thread = ThreadPoolExecutor(1, "learner")
        self._numbers = itertools.count(1)
        self._tasks: deque[Task] = deque(maxlen=KEPT)
        self.counts: dict[tuple[str, str], int] = {}  # ended jobs by kind and state

    def start(self, kind: Kind, work: Callable[[Task], None], label: str | None = None, new: bool = False) -> Task:
        """Have a job done in its turn. Raises `Refused` where too many wait."""
        if self.stopping.is_set():
            raise stopping()
        if len(self.open()) > self._waiting:
            raise busy("the learner is busy, and enough jobs wait", 5)
        loop = asyncio.get_running_loop()
        job = Job(next(self._numbers), kind, "queued", label, new, (), 0, 0, (), (), (), None, None)

        def changed(job: Job) -> None:
            loop.call_soon_threadsafe(self._told, task, job)

        task = Task(job, changed, self.stopping)
        self._tasks.append(task)
        self._changed(job)
        self._thread.submit(self._work, task, work)
        return task

    def quietly(self, work: Callable[[], None]) -> asyncio.Future[None]:
        """Have something done in the learner's thread that is no job."""
        return asyncio.get_running_loop().run_in_executor(self._thread, work)

    def all(self) -> list[Job]:
        """Newest first."""
        return [task.job for task in reversed(self._tasks)]

    def open(self) -> list[Job]:
        """Those that run or wait, in their turn."""
        return [task.job for task in self._tasks if task.job.state in ("queued", "running")]

    def job(self, id: int) -> Job:
        """Raises `Refused` where there is none of that number, or no longer."""
        for job in self.all():
            if job.id == id:
                return job
        raise Refused(404, "unknown", f"job {id}: there is none, or no longer")

    def stop(self) -> None:
        """Give up the update that runs, and what waits."""
        self.stopping.set()
        self._thread.shutdown(wait=False, cancel_futures=True)
        for task in self._tasks:
            if task.job.state == "queued":
                task.failed(stopping())

    def wait(self) -> None:
        """Wait until nothing runs any more."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _told(self, task: Task, job: Job) -> None:
        if job.examples or job.state not in ("queued", "running"):
            task.acknowledged.set()
        if job.state not in ("queued", "running"):
            task.ended.set()
            key = job.kind, job.state
            self.counts[key] = self.counts.get(key, 0) + 1
        self._changed(job)

    def _work(self, task: Task, work: Callable[[Task], None]) -> None:
        try:
            task.update(state="running")
            work(task)
            if task.job.state == "running":
                changes = task.job.changes
                task.update(state="refused" if changes and not changes[-1].adopted else "done")
        except Stopped:
            task.failed(stopping())
        except BaseException as error:
            task.failed(refusal(error, self._private))


def stopping() -> Refused:
    """What is said to whoever comes when the server ends."""
    return busy("the server is stopping: what is stored is learned from when it starts again", 10, "stopping")
