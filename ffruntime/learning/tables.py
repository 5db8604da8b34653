"""The tables of a state's database: what is in them, and how examples get into, through and out of it."""

from __future__ import annotations

import datetime
import sqlite3
from collections.abc import Sequence

FORMAT = 1
APPLICATION = 0x46464544  # "FFED": SQLite's application_id of our databases
# Statuses of examples.
BUNDLES, PENDING, LEARNED, REFUSED, JUDGING = "bundle", "pending", "learned", "refused", "judging"

# These statements are part of the format, word for word. Types are checked when the database is opened for writing:
# SQLite itself stores any type in any column.
SCHEMA = (
    "CREATE TABLE settings (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
    "CREATE TABLE classes (label INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE CHECK (typeof(name) = 'text'))",
    f"""CREATE TABLE examples (
    id INTEGER PRIMARY KEY AUTOINCREMENT, label INTEGER NOT NULL CHECK (typeof(label) = 'integer'),
    image BLOB NOT NULL CHECK (typeof(image) = 'blob'),
    features BLOB CHECK (typeof(features) IN ('blob', 'null')),
    units INTEGER NOT NULL CHECK (typeof(units) = 'integer'),
    status TEXT NOT NULL CHECK (status IN ('{BUNDLES}', '{PENDING}', '{LEARNED}', '{REFUSED}', '{JUDGING}')),
    at TEXT NOT NULL, first INTEGER
)""",
    "CREATE INDEX examples_by_status ON examples (status, label)",
    """CREATE TABLE evictions (
    id INTEGER PRIMARY KEY, label INTEGER NOT NULL CHECK (typeof(label) = 'integer'), status TEXT NOT NULL,
    version INTEGER NOT NULL, at TEXT NOT NULL, first INTEGER
)""",
    """CREATE TABLE versions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, parent INTEGER NOT NULL, kind TEXT NOT NULL, adopted INTEGER NOT NULL,
    examples INTEGER NOT NULL, before REAL, after REAL, at TEXT NOT NULL, updates INTEGER NOT NULL,
    learned INTEGER NOT NULL, sha256 TEXT
)""",
)
INSERT = "INSERT INTO examples (label, image, features, units, status, at) VALUES (?, ?, ?, ?, ?, ?)"


def create(db: sqlite3.Connection) -> None:
    """Make the tables, in a transaction."""
    for statement in SCHEMA:
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION}")
    db.execute(f"PRAGMA user_version = {FORMAT}")


def mark(db: sqlite3.Connection, examples: Sequence[int], status: str, first: int | None = None) -> None:
    """Pending examples get another status. `first`: number of the first version that may have learned from them."""
    db.executemany(
        "UPDATE examples SET status = ?, first = COALESCE(first, ?) WHERE id = ? AND status = ?",
        [(status, first, id, PENDING) for id in examples],
    )


def evict(db: sqlite3.Connection, examples: Sequence[int], version: int, at: str) -> None:
    """Remove examples and record that, but for those that another process' `learn --retry` made pending again."""
    db.executemany(
        "INSERT INTO evictions SELECT id, label, status, ?, ?, first FROM examples WHERE id = ? AND status != ?",
        [(version, at, id, PENDING) for id in examples],
    )
    db.executemany("DELETE FROM examples WHERE id = ? AND status != ?", [(id, PENDING) for id in examples])


def utc() -> str:
    """Now, by the device's clock."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
