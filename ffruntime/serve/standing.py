"""How things stand: what a state and a model say of themselves, as the API tells it."""

from __future__ import annotations

import contextlib

from msgspec import Struct

from ..core.errors import StateError
from ..learning.directory import taught, taught_counts
from ..learning.learner import Learner
from ..learning.store import Store
from ..model import Model
from . import pictures
from .shapes import Class, Example, Examples, Job, Limits, Status, Version, Versions


class Known(Struct, frozen=True):
    """What a state says, as the learner's thread has last read it: nobody waits for its database."""

    version: int = 0
    updates: int = 0
    spare: int = 0
    stored: dict[int, int] = {}  # label -> examples that the device was taught
    versions: int = 0


def known(store: Store) -> Known:
    """What there is to know of a state. Raises `StateError` where it is damaged."""
    now = store.current()
    return Known(now.version, now.updates, store.names.spare(), taught_counts(store), len(store.history()))


def status(
    model: Model, state: Known, learner: Learner | None, jobs: list[Job], camera: bool, limits: Limits
) -> Status:
    """How a server is that answers by `model`; `jobs`: those that run or wait."""
    manifest = model.manifest
    classes = tuple(
        Class(name, label >= len(manifest.classes), state.stored.get(label, 0), name in model.undertrained)
        for label, name in enumerate(model.classes)
    )
    return Status(
        model.path.stem,
        state.version,
        classes,
        state.spare,
        manifest.network.image.shape,
        type(manifest.preprocessing).__name__.lower(),  # type: ignore[arg-type]
        tuple(model.modes()),
        manifest.calibration is not None,
        learner is not None and learner.counted is not None,
        learner is not None,
        state.updates,
        sum(state.stored.values()),
        jobs[0] if jobs else None,
        max(0, len(jobs) - 1),
        camera,
        limits,
    )


def examples(store: Store, before: int | None, most: int) -> Examples:
    """Stored examples that the device was taught, with ids below `before`, newest first; at most so many."""
    with contextlib.suppress(StateError):  # one that is forgotten in between is missing
        return _examples(store, before, most)
    return _examples(store, before, most)


def _examples(store: Store, before: int | None, most: int) -> Examples:
    rows = taught(store, before, most + 1)
    images, names = store.read([row.id for row in rows[:most]]).pixels, store.classes()
    some = tuple(
        Example(row.id, names[row.label], row.status, row.at, pictures.image_uri(image))  # type: ignore[arg-type]
        for row, image in zip(rows[:most], images, strict=True)
    )
    return Examples(some, len(rows) > most)


def versions(store: Store) -> Versions:
    """All versions of the weights."""
    current = store.current_version()
    rows = (
        Version(
            one.id,
            one.parent,
            one.kind,
            one.adopted,
            one.examples,
            one.before,
            one.after,
            one.at,
            one.kept,
            one.id == current,
        )
        for one in store.history()
    )
    return Versions(current, tuple(rows))
