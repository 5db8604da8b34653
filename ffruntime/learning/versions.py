"""Versions of what was learned, and where the weights of each one lie: a file for each, or in memory."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable, Collection
from pathlib import Path

from msgspec import Struct, structs

from ..core.durable import sha256, sync_directory
from ..core.errors import BundleError, StateError
from ..core.learning import KEPT
from ..core.manifest import Manifest
from ..core.reading import of_the_process
from ..core.state import Weights, read_state, write_state

VERSIONS = "versions"  # the folder in a state directory
OURS = re.compile(r"\d+\.state|\.\d+\.state(\.[0-9a-f]+)?\.new")  # names in it
NORMALISED = "normalised"  # the kind of a version whose normalisation statistics are of other images
IN_MEMORY = "in memory"  # in place of a file's hash


class Current(Struct, frozen=True):
    """What a device has learned, as it is now."""

    version: int  # 0: the bundle's own weights
    weights: Weights
    updates: int  # between the bundle's weights and these
    examples: int  # that they learned from


class Version(Struct, frozen=True):
    """A row of the history."""

    id: int
    parent: int
    kind: str  # update, rehearsal, stream, applied, units, normalised
    adopted: bool
    examples: int  # that this version was the first to learn from
    before: float | None  # share of held-back examples that the shipped weights classify rightly, if there are any
    after: float | None  # and the new ones
    at: str  # UTC, by the device's clock
    updates: int
    learned: int
    sha256: str | None  # of its weights' file; None where they are no longer kept, or never were

    @property
    def kept(self) -> bool:
        """Whether it can be gone back to."""
        return self.sha256 is not None


def next_number(db: sqlite3.Connection) -> int:
    """Number of the next version: never one that was given before."""
    query = "SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'versions'"
    return 1 + int(db.execute(query).fetchone()[0])


def record(db: sqlite3.Connection, version: Version) -> None:
    """A new row of the history."""
    values = structs.astuple(version)
    db.execute(f"INSERT INTO versions VALUES ({', '.join('?' * len(values))})", values)


def forget(db: sqlite3.Connection, number: int, parent: int) -> None:
    """Versions beyond the retention limit lose their weights; never the current one, `number`, nor its parent."""
    kept = [id for (id,) in db.execute("SELECT id FROM versions WHERE sha256 IS NOT NULL")]
    newest = sorted(kept, key=lambda id: (id == number, id == parent, id), reverse=True)
    db.executemany("UPDATE versions SET sha256 = NULL WHERE id = ?", [(id,) for id in newest[KEPT:]])


def origin(version: Version | None, first: int, row: Callable[[int], Version | None]) -> int:
    """Number of the newest kept version below `first` that a version was made from: not of one that a rollback
    left; 0, the bundle, at the least. `row`: the version of a number."""
    while version and (version.id >= first or not version.kept):
        version = row(version.parent) if version.parent < version.id else None
    return version.id if version else 0


class VersionWeights:
    """The weights of the versions that are kept: state files in a folder, or, without one, arrays in memory."""

    def __init__(self, folder: Path | None, manifest: Manifest) -> None:
        self._folder, self._manifest = folder, manifest
        self._memory: dict[int, Weights] = {}

    def make_folder(self) -> None:
        """Make the folder durably, where there is none. Raises `OSError`, and `StateError` for a link."""
        if self._folder:
            state = self._folder.parent
            if self._folder.is_symlink():
                raise StateError(
                    f"{self._folder}: is a link, and nothing is written through one; name another --state"
                )
            self._folder.mkdir(exist_ok=True)
            sync_directory(state)
            with contextlib.suppress(PermissionError):  # a directory that can be traversed and not read
                sync_directory(state.parent)

    def file(self, number: int) -> Path:
        """Where the weights of a version are."""
        return (self._folder or Path(IN_MEMORY)) / f"{number}.state"

    def write(self, number: int, weights: Weights, updates: int, examples: int) -> str:
        """Keep the weights of a version, durably; the hash of their file. Raises `BundleError`, `StorageError`."""
        if not self._folder:
            self._memory[number] = weights
            return IN_MEMORY
        write_state(self.file(number), self._manifest, weights, updates, examples)
        return sha256(self.file(number))

    def read(self, number: int, digest: str | None) -> Weights:
        """The weights of a version, checked. Raises `StateError` where they are missing or damaged."""
        if not self._folder:
            return self._memory[number]
        file, remedy = self.file(number), "go back to another version with 'ffruntime rollback'"
        try:
            if sha256(file) != digest:
                raise StateError(f"{file}: damaged: not what was adopted; {remedy}")
            return read_state(file, self._manifest)[0]
        except OSError as error:
            raise StateError(f"{file}: {error.strerror}{'' if of_the_process(error) else f'; {remedy}'}") from error
        except BundleError as error:
            helps = not of_the_process(error.__cause__)
            raise StateError(f"{error}{f'; {remedy}' if helps else ''}") from error

    def any(self) -> bool:
        """Whether there are files of some versions."""
        return self._folder is not None and any(self._folder.glob("*.state"))

    def keep_only(self, numbers: Collection[int]) -> None:
        """Remove the weights of all other versions: what a crash left, and what is no longer kept."""
        self._memory = {number: weights for number, weights in self._memory.items() if number in numbers}
        for file in self._folder.glob("*.state*") if self._folder else ():
            if OURS.fullmatch(file.name) and file.name not in {f"{number}.state" for number in numbers}:
                with contextlib.suppress(OSError):  # the next call will
                    file.unlink()
