"""Processes that race for a state, and that are killed: every acknowledged example has to be there."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ffruntime.core.bundle import Bundle
from ffruntime.core.errors import FFError, StateError
from ffruntime.learning.directory import reset
from ffruntime.learning.store import Store

TESTS = Path(__file__).parents[1] / "tests"
MODEL = TESTS / "fixtures" / "shapes.ff"
ADDERS = 2
LONGEST = 0.4  # seconds before a kill


def _add(place: Path, said: Path, until: float) -> None:
    """Store one example after the other and write down what is acknowledged, and when it was asked for."""
    bundle = Bundle(MODEL)
    image = bundle.exemplars(0).pixels[:1]
    with said.open("a") as file:
        while time.monotonic() < until:
            with contextlib.suppress(StateError), closing(Store(place, bundle.manifest)) as store:
                while time.monotonic() < until:
                    asked = time.monotonic()
                    print(asked, *store.add(image, bundle.manifest.classes[:1]), file=file, flush=True)


def _forget(place: Path, said: Path, until: float, seed: int) -> None:
    """Take examples back, and write down which before."""
    bundle, dice = Bundle(MODEL), random.Random(seed)
    with said.open("a") as file:
        while time.monotonic() < until:
            with contextlib.suppress(FFError), closing(Store(place, bundle.manifest)) as store:
                while time.monotonic() < until:
                    if pending := store.pending():
                        id = dice.choice(pending)
                        print(id, file=file, flush=True)
                        store.forget([id])


def races(work: Path, count: int, seed: int) -> dict[str, Any]:
    """Two that add, one that forgets and one that resets: what was acknowledged to whom had asked after the last
    reset ended, and was not forgotten, is there."""
    fork, lost, acknowledged, faults = get_context("fork"), 0, 0, []
    dice = random.Random(seed)
    for number in range(count):
        folder = work / "races"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        place, begun = folder / "model.state", time.monotonic()
        end, resets_end = begun + 1.0, begun + 0.6
        added = [folder / f"added{k}" for k in range(ADDERS)]
        forgotten = folder / "forgotten"
        workers = [fork.Process(target=_add, args=(place, said, end)) for said in added]
        workers.append(fork.Process(target=_forget, args=(place, forgotten, end, number)))
        for worker in workers:
            worker.start()
        last = 0.0
        while time.monotonic() < resets_end:
            time.sleep(dice.uniform(0, 0.1))
            with contextlib.suppress(StateError):
                reset(place)
                last = time.monotonic()
        for worker in workers:
            worker.join()
            if worker.exitcode:
                faults.append(f"race {number}: exit {worker.exitcode}")
        rows = [line.split() for said in added for line in said.read_text().splitlines()]
        sure = {int(id) for asked, *ids in rows if float(asked) > last for id in ids}
        gone = {int(line) for line in forgotten.read_text().splitlines()} if forgotten.exists() else set()
        acknowledged += len(sure)
        with closing(Store(place, Bundle(MODEL).manifest)) as store:
            lost += len(sure - gone - set(store.pending()))
    return {"races": count, "acknowledged": acknowledged, "lost": lost, "faults": faults}


def kills(work: Path, count: int, seed: int) -> dict[str, Any]:
    """Processes that learn, killed at any moment (`tests/support/learning_server.py`)."""
    folder = work / "kills"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    server = subprocess.Popen(
        [sys.executable, str(TESTS / "support" / "learning_server.py"), str(MODEL)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent)},
    )
    assert server.stdin
    assert server.stdout
    dice, lost, acknowledged, damaged, manifest = random.Random(seed), 0, 0, 0, Bundle(MODEL).manifest
    for number in range(count):
        place, said = folder / f"{number // 12}.state", folder / f"{number // 12}.ids"
        before = said.stat().st_size if said.exists() else 0
        server.stdin.write(json.dumps([str(place), str(said), number]) + "\n")
        server.stdin.flush()
        process = int(server.stdout.readline())
        time.sleep(dice.uniform(0, LONGEST))
        os.kill(process, signal.SIGKILL)
        server.stdout.readline()
        text = said.read_text() if said.exists() else ""
        known = {int(word) for word in text[: text.rfind("\n") + 1].split()}
        acknowledged += len(text[before:].split())
        if not (place / "learning.db").exists():
            lost += len(known)
            continue
        try:
            with closing(Store(place, manifest)) as store:
                store.current()
        except FFError:
            damaged += 1
        with closing(sqlite3.connect(place / "learning.db")) as db:
            there = {id for table in ("examples", "evictions") for (id,) in db.execute(f"SELECT id FROM {table}")}
        lost += len(known - there)
    server.stdin.close()
    server.wait(60)
    return {"kills": count, "acknowledged": acknowledged, "lost": lost, "damaged": damaged}
