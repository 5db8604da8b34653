"""A state directory from outside: read, shown, written to one file, used by one learner at a time, deleted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from ..core.bundle import Bundle, state_there
from ..core.errors import StateError, StorageError
from ..core.manifest import Manifest
from ..core.signature import Sign
from ..core.state import State, changed, write_state
from ..lock import held
from .database import DATABASE, BusyDatabase, Database, ForeignDatabase
from .store import Store
from .tables import BUNDLES
from .versions import OURS, VERSIONS, Current

LOCK = "learning.lock"


def current(directory: Path, manifest: Manifest) -> Current | None:
    """What was learned on the bundle of `manifest`, only reading; None where there is no `directory`.

    Raises `StateError` for a damaged state or one of another bundle.
    """
    if not state_there(directory):
        return None
    with contextlib.closing(Store(directory, manifest, writing=False)) as store:
        return store.current()


class Taught(Struct, frozen=True):
    """A stored example that the device was taught, without its image."""

    id: int
    label: int
    status: str
    at: str  # UTC, by the device's clock


def taught(store: Store, before: int | None = None, most: int = -1) -> list[Taught]:
    """Stored examples that are not the bundle's, newest first; those with ids below `before`, at most so many."""
    query = "SELECT id, label, status, at FROM examples WHERE status != ? AND id < ? ORDER BY id DESC LIMIT ?"
    rows = store.database.all(query, (BUNDLES, (1 << 63) - 1 if before is None else before, most))
    return [Taught(*row) for row in rows]


def taught_counts(store: Store) -> dict[int, int]:
    """label -> how many such examples of it are stored."""
    query = "SELECT label, COUNT(*) FROM examples WHERE status != ? GROUP BY label"
    return dict(store.database.all(query, (BUNDLES,)))


def export(
    store: Store, bundle: Bundle, file: Path, sign: Sign | None = None, own: bool = False
) -> tuple[Current, State, list[str]]:
    """Write the current version as one portable file (`docs/state.md`), signed by `sign`; the version, what the
    file says of it, and the tensors in it. With `own`, class statistics are of this state's own examples alone.
    Raises `StateError` where it is damaged, `StorageError`."""
    now = store.current()
    if own:
        told = store.counted and store.counted.own(now.version)
        now = replace(now, weights=replace(now.weights, statistics=told))
    tensors = changed(bundle.weights(), now.weights.tensors)
    weights = replace(now.weights, tensors=tensors)
    origins = (store.identity,) if own else store.origins(now.version)
    written = write_state(file, bundle.manifest, weights, now.updates, now.examples, origins, sign)
    return now, written, list(tensors)


@contextlib.contextmanager
def alone(directory: Path | None) -> Iterator[None]:
    """While the block runs, no other process learns here; in memory none could.

    Raises `StateError` where one does, `StorageError` where that cannot be known.
    """
    if directory is None:
        yield
        return
    busy = StateError(f"{directory}: another process is learning; try again when it is done")
    with held(directory / LOCK, busy, str(directory / LOCK)):
        yield


def reset(directory: Path) -> None:
    """Delete all that was learned, damaged or of whatever bundle; other files stay.

    Who has the state open is told so when it is next written to. Raises `StateError` where another process is
    learning or writing, or the database is another program's, `StorageError`.
    """
    try:
        Database(directory, writing=False).close()
    except ForeignDatabase:
        raise
    except (StateError, StorageError):
        pass  # what is damaged can be deleted
    with alone(directory):
        try:
            with contextlib.closing(Database(directory, writing=True)) as database, database.clearing():
                _delete_versions(directory)
        except (ForeignDatabase, BusyDatabase):
            raise
        except (StateError, StorageError):  # damaged, or on a medium that takes no writes: nobody can add to it
            _delete_files(directory)
        with _errors():
            (directory / LOCK).unlink(missing_ok=True)
    for folder in (directory / VERSIONS, directory):
        with contextlib.suppress(OSError):  # where something else is in it
            folder.rmdir()


def _delete_files(directory: Path) -> None:
    with _errors():
        for suffix in ("", "-wal", "-shm", "-journal"):  # the database first: it vouches for the rest
            (directory / f"{DATABASE}{suffix}").unlink(missing_ok=True)
    _delete_versions(directory)


def _delete_versions(directory: Path) -> None:
    """Delete the weights of all versions; of a link in the folder's place, the link."""
    versions = directory / VERSIONS
    with _errors():
        if versions.is_symlink():
            versions.unlink()
        for file in versions.iterdir() if versions.is_dir() else ():
            if OURS.fullmatch(file.name):
                file.unlink()


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{error.filename}: {error.strerror}") from error
