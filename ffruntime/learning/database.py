"""The database of a state directory: SQLite, durable.

Application id and tables are checked; SQLite's errors become `StateError` or `StorageError`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sqlite3
import stat
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..core.bundle import state_there
from ..core.durable import sync_directory
from ..core.errors import StateError, StorageError
from ..lock import scratch_folder
from .tables import APPLICATION, FORMAT, SCHEMA

DATABASE = "learning.db"
PATIENCE = 30.0  # seconds to wait for another process that is writing
T = TypeVar("T")
MEDIUM = ("disk is full", "disk I/O error", "unable to open", "readonly database")  # errors of the medium
OURS = "FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"  # what was made in it, and not by SQLite itself


class ForeignDatabase(StateError):
    """An undamaged database that belongs to another program."""


class BusyDatabase(StateError):
    """A database that another process is writing to."""


class Database:
    """The database in a state directory, opened. Safe to share between threads, and between processes.

    It is closed with the last reference to it, or before by `close`; what was acknowledged is durable without that.
    """

    def __init__(self, directory: Path | None, writing: bool) -> None:
        """Open it; with `writing` one that is not there is begun, else it is an empty one in memory.

        Without a `directory` it is a new one in memory. Raises `StateError` for what is damaged or not ours, which
        is left as it is, `StorageError`.
        """
        if directory:
            state_there(directory)
        self._directory, self._name = directory, directory or "what is kept in memory"
        self._inode: int | None = None  # of the file that was opened
        self._schema: int | None = None  # SQLite's count of changes of the tables; None: there are none yet
        self._place = str(directory.absolute()) if directory else ""
        self._remembered: dict[str, Any] = {}  # what was read
        # SQLite's number of other processes' commits when that was read, and when the tables were last checked.
        self._as_of = self._checked = -1
        self._writing = self._alone = False  # a transaction changes more than examples; nobody else can commit
        self._require_own_process()
        self._process = os.getpid()
        self._guard = threading.RLock()
        self._closing = contextlib.ExitStack()
        weakref.finalize(self, _close, self._closing, self._process)
        _OPEN.add(self)
        try:
            with self.errors():
                if directory:
                    self._open(directory / DATABASE, writing)
                else:
                    self._db = self._connect()
        except BaseException:
            self._closing.close()
            raise

    def close(self) -> None:
        """Close it; in a forked process nothing is."""
        if self._process == os.getpid():
            with self._guard:
                self._closing.close()
                _OPEN.discard(self)

    def all(self, query: str, values: Sequence[object] = ()) -> list[tuple]:
        """The rows of a query."""
        self._require_own_process()
        with self._guard, self.errors():
            return self._db.execute(query, tuple(values)).fetchall()

    def each(self, query: str, values: Sequence[object] = ()) -> Generator[tuple, None, None]:
        """The same one after the other, all of one moment; other threads wait until it is closed."""
        self._require_own_process()
        with self._guard, self.errors(), contextlib.closing(self._db.execute(query, tuple(values))) as rows:
            yield from rows

    def remembered(self, what: str, read: Callable[[], T]) -> T:
        """What `read` makes of classes, settings, versions or the number of examples, under the name `what`: read
        once, until another process commits something, or a transaction of this one that is not of `rows` alone."""
        self._require_own_process()
        with self._guard:
            if self._writing:
                return read()
            if not self._alone:
                self._forget_if_changed()
            if what not in self._remembered:
                self._remembered[what] = read()
            found: T = self._remembered[what]
            return found

    def remember(self, what: str, value: object) -> None:
        """In a transaction of `rows` alone, what something that was read is now."""
        if not self._writing:
            self._remembered[what] = value

    def writes_more(self) -> None:
        """A transaction goes on to change more than rows of examples."""
        self._writing = True
        self._remembered.clear()

    def _forget_if_changed(self) -> None:
        """Forget what was read if another process has committed something since then."""
        with self.errors():
            ((number,),) = self._db.execute("PRAGMA data_version").fetchall()
        if number != self._as_of:
            self._remembered.clear()
            self._as_of = number

    @property
    def empty(self) -> bool:
        """Whether it has no tables: its creation was never completed, or it was reset."""
        return not self.all(f"SELECT 1 {OURS}")

    @contextlib.contextmanager
    def transaction(self, rows: bool = False) -> Iterator[sqlite3.Connection]:
        """The block takes effect as a whole or not at all, and is durable when it ends; one block at a time in all
        processes. `rows`: it adds examples, and changes nothing that is `remembered` unless it says so. Raises
        `StateError` where the database was reset since it was opened."""
        self._require_own_process()
        with self._guard, self.errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                if self._directory and self._inode not in (None, _inode(self._directory / DATABASE)):
                    raise self._was_reset()
                self._forget_if_changed()
                self._alone = True
                if self._as_of != self._checked:  # a reset is a commit of another process
                    if self._schema not in (None, self._changes()):
                        raise self._was_reset()
                    self._checked = self._as_of
                if not rows:
                    self.writes_more()
                yield self._db
                self._db.execute("COMMIT")
                if self._schema is None:
                    self._schema = self._changes()
            except BaseException:
                self._remembered.clear()
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise
            finally:
                self._writing = self._alone = False

    def shrink(self) -> None:
        """Free the space of what was deleted; the file itself shrinks at the next checkpoint of its log."""
        with self._guard, contextlib.suppress(sqlite3.Error):  # the next call will
            self._db.executescript("PRAGMA incremental_vacuum")  # `execute` would free a single page

    def erase(self) -> None:
        """What was deleted is overwritten, in the log, too, as far as nobody reads it just now."""
        with self._guard, contextlib.suppress(sqlite3.Error):
            self._db.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE)")

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Errors of SQLite and of the file system become `StateError` or `StorageError`."""
        try:
            yield
        except (sqlite3.Error, OverflowError, UnicodeError) as error:  # the last: of damaged text
            said = str(error)
            if "locked" in said:
                raise BusyDatabase(f"{self._name}: another process is writing to it; try again") from error
            if "no such table" in said:
                raise self._was_reset() from error
            if any(words in said for words in MEDIUM):
                raise StorageError(f"{self._name}: {said}; what was saved is unchanged") from error
            raise self.damaged(said) from error
        except OSError as error:
            raise StorageError(f"{self._name}: {error.strerror}; what was saved is unchanged") from error

    def damaged(self, what: str) -> StateError:
        """An error that says what is wrong, with the remedy that always works."""
        return StateError(f"{self._name}: damaged: {' '.join(what.split())}; begin anew with 'ffruntime reset'")

    @contextlib.contextmanager
    def clearing(self) -> Iterator[None]:
        """Delete all that is in it, in one transaction that the block is part of; then its file, where nobody else
        has that open: a file that is deleted below others would take what they store with it."""
        with self._guard, self.errors():
            self._db.execute("BEGIN EXCLUSIVE")
            for (name,) in self.all(f"SELECT name {OURS} AND type = 'table'"):
                self._db.execute(f"DROP TABLE {name}")
            if self.all("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'"):
                self._db.execute("DELETE FROM sqlite_sequence")
            self._db.execute("PRAGMA application_id = 0")
            self._db.execute("PRAGMA user_version = 0")
            yield
            self._db.execute("COMMIT")
            self.shrink()
            self._db.execute("PRAGMA busy_timeout = 0")
            with contextlib.suppress(sqlite3.OperationalError):  # locked: somebody else has it open
                self._db.execute("PRAGMA journal_mode = DELETE")  # which needs to be alone, and removes the log
                self._db.execute("BEGIN EXCLUSIVE")
                if self._directory and self.empty:
                    (self._directory / DATABASE).unlink()
                self._db.execute("ROLLBACK")

    def _require_own_process(self) -> None:
        """Raise `StateError` in a process that was forked while the file was open: neither SQLite's connections nor
        its knowledge of locks follow a fork (https://sqlite.org/howtocorrupt.html, section 2.6)."""
        if self._place in _INHERITED:
            raise StateError(
                f"{self._name}: was open when this process was forked; close it before that, or start the process "
                "anew (multiprocessing: spawn)"
            )

    def _was_reset(self) -> StateError:
        return StateError(f"{self._name}: was reset by another process; open it again")

    def _changes(self) -> int:
        return int(self._db.execute("PRAGMA schema_version").fetchone()[0])

    def _open(self, file: Path, writing: bool) -> None:
        if writing:
            _make_durably(file.parent)
            with contextlib.suppress(FileExistsError):
                os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            _require_file(file, file.lstat().st_mode)
            # Before SQLite opens it: where it is another one by then, the first transaction says so.
            self._inode = _inode(file)
            self._db = self._connect(file, "mode=rwc")
        else:
            if file.exists():
                _require_file(file, file.stat().st_mode)
            self._db = self._readable(file) if file.exists() else self._connect()
        self._check(file)
        if writing:
            self._make_durable()
        elif self.empty:  # not begun, or not yet
            self._db = self._connect()
        if not self.empty:
            self._schema = self._changes()

    def _check(self, file: Path) -> None:
        """Raise `StateError` unless it is empty or ours, table by table. Nothing is written."""
        self._db.execute("BEGIN")  # one consistent view: another process may be making the tables
        try:
            application, version = (self.all(f"PRAGMA {n}")[0][0] for n in ("application_id", "user_version"))
            tables = {sql for (sql,) in self.all(f"SELECT sql {OURS}")}
        finally:
            self._db.execute("ROLLBACK")
        if not (application or tables):
            return
        if application != APPLICATION and not tables & set(SCHEMA):
            raise ForeignDatabase(f"{file}: a database of another program; name another --state")
        if application != APPLICATION:
            raise self.damaged("its application id is not that of a state")
        if version != FORMAT:
            raise StateError(f"{file}: format {version} is none that this program reads ({FORMAT})")
        if tables != set(SCHEMA):
            raise self.damaged("its tables are not those of a state")

    def _make_durable(self) -> None:
        """Every commit is synced from now on; the file and its types are checked."""
        self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # has an effect only on an empty database
        patient_until = time.monotonic() + PATIENCE
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:  # here SQLite does not wait for another process
                if "locked" not in str(error) or time.monotonic() > patient_until:
                    raise
                time.sleep(0.01)
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA fullfsync = ON")  # macOS, as `durable.sync`; elsewhere it changes nothing
        self._db.execute("PRAGMA checkpoint_fullfsync = ON")
        self._db.execute("PRAGMA secure_delete = ON")  # a forgotten picture is overwritten
        if (said := self.all("PRAGMA quick_check(1)")[0][0]) != "ok":
            raise self.damaged(said)

    def _readable(self, file: Path) -> sqlite3.Connection:
        """A connection for reading: in place, or on a read-only medium immutable, or of a copy where the database
        was not closed."""
        try:
            return self._connect(file, "mode=ro")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise
            log = file.with_name(f"{DATABASE}-wal")
            if not (log.exists() and log.stat().st_size):
                return self._connect(file, "mode=ro&immutable=1")
        folder = self._closing.enter_context(scratch_folder())
        shutil.copy(file, folder)
        shutil.copy(log, folder)
        return self._connect(folder / DATABASE, "mode=rw")

    def _connect(self, file: Path | None = None, how: str = "") -> sqlite3.Connection:
        """A connection without implicit transactions that has proved to be readable; without a file, in memory."""
        address = f"{file.absolute().as_uri()}?{how}" if file else ":memory:"
        db = sqlite3.connect(address, uri=True, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            db.execute("SELECT 1 FROM sqlite_master").fetchone()
        except BaseException:
            db.close()
            raise
        self._closing.callback(db.close)
        return db


def _close(closing: contextlib.ExitStack, process: int) -> None:
    if process == os.getpid():
        closing.close()


def _abandon_connections() -> None:
    """In a forked process: no connection of the parent is ever closed here, nor its file opened."""
    for database in list(_OPEN):
        if database._directory:
            _INHERITED.add(database._place)
        if (connection := getattr(database, "_db", None)) is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
    _OPEN.clear()


_OPEN: weakref.WeakSet[Database] = weakref.WeakSet()  # in this process
_INHERITED: set[str] = set()  # directories that were open when this process was forked
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_connections)


def _make_durably(directory: Path) -> None:
    """Make a directory and those above it, each entry synced."""
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for folder in made:
        with contextlib.suppress(PermissionError):  # a directory that is writable and not readable
            sync_directory(folder.parent)


def _require_file(file: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise StateError(f"{file}: is no regular file; 'ffruntime reset' removes it, or name another --state")


def _inode(file: Path) -> int | None:
    try:
        return file.stat().st_ino
    except (FileNotFoundError, NotADirectoryError):
        return None
