"""Processes that learn, killed at any moment, and what has to be in the state then."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
from counting import same
from shapes import SEEDS, SHAPE

from ffruntime.core import statistics
from ffruntime.core.bundle import REPLAY
from ffruntime.core.durable import sha256
from ffruntime.learning.store import Store
from ffruntime.model import Model
from ffruntime.session import Session

LONGEST = 0.4  # seconds that a process learns before it is killed: some ten updates
ROUNDS = 12  # kills of the processes on one state, before the next one begins


class Server:
    """`learning_server.py`, which starts processes that learn for ever."""

    def __init__(self, model: Path) -> None:
        command = [sys.executable, str(Path(__file__).with_name("learning_server.py")), str(model)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def start(self, state: Path, acknowledged: Path, seed: int) -> int:
        """The id of a process that learns."""
        self._process.stdin.write(json.dumps([str(state), str(acknowledged), seed]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def kill(self, process: int) -> None:
        """End it at once, and wait until it has."""
        os.kill(process, signal.SIGKILL)
        assert self._process.stdout.readline() == "\n"

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(10)


class Killed(NamedTuple):
    """What a killed process has left."""

    state: Path
    said: Path  # the ids that it and those before it on this state have said
    lived: bool  # whether there is a state
    last: bool  # whether the next process has another state


def kills(server: Server, folder: Path, count: int, seed: int, sign: str = "") -> Iterator[Killed]:
    """Kill so many processes, twelve to a state: the first of a state in its first moments; of the others a third
    at any moment, a third at any moment after an example was acknowledged, a third after an id with that sign."""
    dice = random.Random(seed)
    for number in range(count):
        state, said = (folder / f"{number // ROUNDS}.{kind}" for kind in ("state", "ids"))
        first = number % ROUNDS == 0
        awaited = None if first or number % 3 == 0 else "" if number % 3 == 1 else sign
        before = len(said_ids(said, awaited or ""))
        process = server.start(state, said, number)
        if awaited is not None:
            wait_for(lambda: len(said_ids(said, awaited)) > before)  # noqa: B023
        time.sleep(dice.uniform(0, LONGEST / 10 if first else LONGEST))
        server.kill(process)
        last = number % ROUNDS == ROUNDS - 1 or number == count - 1
        yield Killed(state, said, (state / "learning.db").exists(), last)


class Survived(NamedTuple):
    """Of so many kills: after how many there was a state; ids that were acknowledged, and that were forgotten."""

    kills: int
    lived: int
    acknowledged: int
    forgotten: int


def killed_and_counted(bundle: Path, folder: Path, count: int, seed: int) -> Survived:
    """Kill processes that learn, count and forget, and hold every state against what they have said. Raises
    `AssertionError` where something is lost, or is there and should not be."""
    model, lived, ids = Model(bundle, session=Session(threads=1), state=False), 0, []
    with closing(Server(bundle)) as server:
        for killed in kills(server, folder, count, seed, sign="-"):
            forgotten = said_ids(killed.said, "-")
            if killed.lived:
                assert_whole(killed.state, model, acknowledged_ids(killed.said))
                assert_counted(killed.state, model, forgotten)
                lived += 1
            if killed.last:
                ids.append((len(said_ids(killed.said)), len(forgotten)))
    acknowledged, forgotten_ids = map(sum, zip(*ids, strict=True))
    return Survived(count, lived, acknowledged, forgotten_ids)


def said_ids(file: Path, before: str = "") -> set[int]:
    """Ids with that sign before them in all lines that were completely written."""
    text = file.read_text() if file.exists() else ""
    words = text[: text.rfind("\n") + 1].split()
    return {int(word.removeprefix(before)) for word in words if word.rstrip("0123456789") == before}


def acknowledged_ids(file: Path) -> set[int]:
    """Ids that were said to be stored, and not to be forgotten."""
    return said_ids(file) - said_ids(file, "?")


def open_store(state: Path, model: Model) -> Store:
    return Store(state, model.manifest, seeds=lambda: model.bundle.exemplars(REPLAY))


def rows(state: Path, query: str) -> set[tuple]:
    with closing(sqlite3.connect(state / "learning.db")) as db:
        return set(db.execute(query).fetchall())


def wait_for(happened: Callable[[], bool]) -> None:
    """However slow the machine is; but not for ever."""
    until = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < until, "it has not happened in two minutes"
        time.sleep(0.005)


def assert_whole(state: Path, model: Model, acknowledged: set[int]) -> None:
    """All that was acknowledged is there, or its eviction is recorded; every version is whole, and one counts."""
    with closing(open_store(state, model)) as store:
        now, versions = store.current(), store.history()
        for version in versions:
            if version.kept:
                store.weights(version.id)  # refuses what is not, byte for byte, what was adopted
        store.sweep()
    assert rows(state, "PRAGMA integrity_check") == {("ok",)}
    stored = {id for (id,) in rows(state, "SELECT id FROM examples")}
    evicted = {id for (id,) in rows(state, "SELECT id FROM evictions")}
    assert not stored & evicted
    assert acknowledged | set(range(1, SEEDS + 1)) <= stored | evicted
    assert now.version in {0, *(version.id for version in versions if version.kept)}
    assert [version.id for version in versions] == list(range(1, len(versions) + 1))  # no number is given twice
    files = {file.name: sha256(file) for file in (state / "versions").iterdir()}
    assert files == {f"{version.id}.state": version.sha256 for version in versions if version.kept}


def assert_counted(state: Path, model: Model, forgotten: set[int]) -> None:
    """The rows' features are those of their images, and what counts is these and what was evicted."""
    with closing(open_store(state, model)) as store:
        assert store.counted
        found, snapshot = store.current().weights.statistics, store.counted.snapshot()
    stored = sorted(rows(state, "SELECT id, label, features, image FROM examples WHERE status != 'bundle'"))
    evicted = {id for (id,) in rows(state, "SELECT id FROM evictions WHERE status != 'bundle'")}
    assert not forgotten & (evicted | {id for id, *_ in stored})
    assert int(snapshot.counts.sum()) == len(evicted)
    again = snapshot
    if stored:
        x = np.array([np.frombuffer(features, np.int8) for _, _, features, _ in stored])
        images = np.array([np.frombuffer(image, np.uint8).reshape(SHAPE) for *_, image in stored])
        assert np.abs(model.examples(images).astype(int) - x).max() <= 1  # another batch rounds otherwise
        again = statistics.added(snapshot, statistics.of(x, np.array([label for _, label, *_ in stored]), 12))
    assert same(found, again)
