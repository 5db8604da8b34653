"""Nothing that was acknowledged is lost, and what is there is whole.

Processes that are killed, copies of what lies on the medium at any moment, torn logs, file systems that are full or
read-only, several processes at once.

`FF_KILLS=500 pytest tests/ffruntime/test_durability.py` kills and copies so many times instead of a few dozen.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import in_process_text
from counting import with_statistics
from killing import (
    LONGEST,
    ROUNDS,
    Server,
    acknowledged_ids,
    assert_whole,
    killed_and_counted,
    kills,
    open_store,
    wait_for,
)
from shapes import SEEDS, SHAPE

from ffruntime.core.bundle import REPLAY
from ffruntime.core.errors import StateError, StorageError
from ffruntime.learning.directory import alone, current, reset
from ffruntime.learning.learner import Learner
from ffruntime.learning.step import Settings
from ffruntime.model import Model
from ffruntime.session import Session

pytestmark = pytest.mark.posix
KILLS = int(os.environ.get("FF_KILLS", "60"))
SMALL = Settings(steps=1, head_steps=1, batch=4)
NOTHING = np.empty((0, *SHAPE), np.uint8), ()


@pytest.fixture(scope="module")
def server(exported: Path) -> Iterator[Server]:
    with closing(Server(exported)) as running:
        yield running


@pytest.fixture(scope="module")
def model(exported: Path) -> Model:
    return Model(exported, session=Session(threads=1), state=False)


def newest(state: Path) -> int:
    """The number of the newest version that lies in the state; 0 where there is none."""
    files = (state / "versions").glob("[0-9]*.state")
    return max((int(file.stem) for file in files), default=0)


def learn_what_is_pending(state: Path, model: Model) -> None:
    with closing(Learner(model, state, SMALL, tolerance=1.0)) as learner:
        count, before = len(learner.store.pending()), learner.store.current_version()
        outcomes = list(learner.updates([NOTHING]))
        assert sum(len(outcome.examples) for outcome in outcomes) == count
        assert learner.store.pending() == []
        assert learner.version == (outcomes[-1].version if outcomes else before)


@pytest.mark.slow
def test_killed_at_any_moment(server: Server, model: Model, tmp_path: Path) -> None:
    lived = 0
    for killed in kills(server, tmp_path, KILLS, 0):
        if killed.lived:
            assert_whole(killed.state, model, acknowledged_ids(killed.said))
            lived += 1
        if killed.last:
            learn_what_is_pending(killed.state, model)
    assert lived > KILLS / 2


@pytest.fixture(scope="module")
def counting(class_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with class statistics."""
    return with_statistics(class_bundle, tmp_path_factory.mktemp("counting") / "model.ff")


@pytest.mark.slow
def test_killed_while_examples_are_counted_and_forgotten(counting: Path, tmp_path: Path) -> None:
    """Nothing acknowledged is lost, nothing forgotten is there, and class statistics are, to the bit, the snapshot
    of what was evicted and those of the rows."""
    found = killed_and_counted(counting, tmp_path, KILLS, 1)
    assert found.lived > KILLS / 2
    assert found.acknowledged > found.forgotten > 0


@contextmanager
def stopped(process: int) -> Iterator[None]:
    """A process that does nothing meanwhile."""
    os.kill(process, signal.SIGSTOP)
    while Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.001)
    yield
    os.kill(process, signal.SIGCONT)


def committed_bytes(log: Path) -> int:
    """How much of a write-ahead log counts: up to its last commit (sqlite.org/fileformat2.html, section 4)."""
    data, end = log.read_bytes(), 0
    if len(data) < 32:
        return end
    page, salts = struct.unpack(">I", data[8:12])[0], data[16:24]
    for start in range(32, len(data) - 24 - page + 1, 24 + page):
        if data[start + 8 : start + 16] != salts:
            break
        if struct.unpack(">I", data[start + 4 : start + 8])[0]:
            end = start + 24 + page
    return end


def tear(state: Path, dice: random.Random) -> None:
    """What a lost power supply may do to what was not synced: the end of the log is cut off, or is anything."""
    log = state / "learning.db-wal"
    if dice.random() < 0.5:
        (state / "learning.db-shm").unlink(missing_ok=True)  # never synced at all
    if not log.exists():
        return
    end = committed_bytes(log)
    with log.open("r+b") as stream:
        if dice.random() < 0.7:
            stream.truncate(dice.randint(end, max(end, log.stat().st_size)))
        if dice.random() < 0.5:
            stream.seek(0, os.SEEK_END)
            stream.write(dice.randbytes(dice.randint(1, 9000)))


@pytest.mark.slow
def test_what_lies_on_the_medium_at_any_moment(server: Server, model: Model, tmp_path: Path) -> None:
    dice, copied, torn = random.Random(1), 0, 0
    for count in range(KILLS // 3):
        if count % ROUNDS == 0:
            state, said = tmp_path / f"{count}.state", tmp_path / f"{count}.ids"
            process = server.start(state, said, count)
        time.sleep(dice.uniform(0, LONGEST))
        copy = tmp_path / "copy.state"
        with stopped(process):
            acknowledged = acknowledged_ids(said)
            if state.exists():
                shutil.copytree(state, copy)
        if copy.exists():
            log = copy / "learning.db-wal"
            torn += log.exists() and log.stat().st_size > committed_bytes(log)
            tear(copy, dice)
            assert_whole(copy, model, acknowledged)
            learn_what_is_pending(copy, model)
            shutil.rmtree(copy)
            copied += 1
        if count % ROUNDS == ROUNDS - 1 or count == KILLS // 3 - 1:
            server.kill(process)
    assert copied > KILLS / 6


ffruntime = partial(in_process_text, "ffruntime")


def ffruntime_with_files_of(most: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """In a process whose files may have so many bytes."""
    import resource

    command = [sys.executable, "-m", "ffruntime", *map(str, arguments)]
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (most, most))
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)


def assert_one_line(done: subprocess.CompletedProcess, code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


def fill(disk: Path, left: int) -> None:
    """Leave so many bytes free, in whole pages."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    free = os.statvfs(disk)
    with filler.open("wb") as stream:
        stream.write(bytes(max(0, free.f_bavail * free.f_frsize - left)))


def test_a_full_disk_costs_nothing_that_was_saved(
    small_disk: Callable[[str], Path], model: Model, picture_files: list[Path]
) -> None:
    disk = small_disk("8m")
    state, known = disk / "model.state", set()
    images = model.bundle.exemplars(REPLAY).pixels
    with closing(Learner(model, state, SMALL, tolerance=1.0)) as learner:
        for outcome in learner.updates([(images[:2], ["dots", "ring"])], stored=known.update):
            assert outcome.adopted
    before = current(state, model.manifest).version
    failed = 0
    for left in (0, 4096, 8 << 10, 16 << 10, 24 << 10, 64 << 10, 1 << 20):  # bytes; a version takes 28 kB
        fill(disk, left)
        try:
            with closing(Learner(model, state, SMALL, tolerance=1.0)) as learner:
                learner.learn(images[:9], ["dots"] * 9, known.update)
        except StorageError:
            failed += 1
        now = current(state, model.manifest)  # only reading, however full it is
        assert now.version >= before
        assert now.weights.tensors
    assert failed >= 4
    fill(disk, 0)
    assert_one_line(
        ffruntime("learn", "--model", model.path, "--state", state, picture_files[0], "--label", "dots"), 8
    )
    done = ffruntime("classify", "--model", model.path, "--state", state, picture_files[0])
    assert done.returncode == 0, done.stderr
    (disk / "filler").unlink()
    assert_whole(state, model, known)
    learn_what_is_pending(state, model)
    fill(disk, 0)
    reset(state)
    assert not state.exists()


@pytest.mark.slow
@pytest.mark.parametrize("most", [0, 10_000, 20_000])  # bytes; a version takes more
def test_files_that_may_not_grow(most: int, model: Model, picture_files: list[Path], tmp_path: Path) -> None:
    state = tmp_path / "model.state"
    with closing(Learner(model, state, SMALL)):
        pass
    learn = ("learn", "--model", model.path, "--state", state, "--steps", 1, picture_files[0], "--label", "dots")
    done = ffruntime_with_files_of(most, *learn)
    assert_one_line(done, 8, str(state))
    assert_whole(
        state, model, {int(word) for word in done.stdout.split() if word.isdecimal() and int(word) > SEEDS}
    )
    learn_what_is_pending(state, model)


@pytest.mark.slow
@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_a_read_only_state(
    closed: bool,
    shared: bool,
    small_disk: Callable[[str], Path],
    server: Server,
    model: Model,
    picture_files: list[Path],
    tmp_path: Path,
) -> None:
    disk = small_disk("16m")
    state = disk / "model.state"
    process = server.start(state, tmp_path / "ids", 0)
    wait_for(lambda: newest(state) >= 2)
    server.kill(process)
    if closed:
        open_store(state, model).close()
    if not shared:
        (state / "learning.db-shm").unlink(missing_ok=True)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    files = sorted(disk.rglob("*"))
    place = ("--model", model.path, "--state", state)
    now = current(state, model.manifest)
    versions = [json.loads(line) for line in ffruntime("history", *place, "--json").stdout.splitlines()]
    assert [row["id"] for row in versions if row["current"]] == ([now.version] if now.version else [])
    done = ffruntime("classify", *place, picture_files[0])
    assert done.returncode == 0, done.stderr
    assert_one_line(ffruntime("learn", *place, picture_files[0], "--label", "dots"), 8, str(state))
    assert_one_line(ffruntime("rollback", *place, 0), 8, str(state))
    assert_one_line(ffruntime("reset", *place, "--yes"), 8, str(state))
    assert sorted(disk.rglob("*")) == files


@pytest.mark.slow
def test_several_processes_on_one_state(
    exported: Path, server: Server, model: Model, picture_files: list[Path], tmp_path: Path
) -> None:
    """Two that learn, from the state's first moment on, and two that read."""
    state, said = tmp_path / "model.state", [tmp_path / "first", tmp_path / "second"]
    classify = [sys.executable, "-m", "ffruntime", "classify", "--model", str(exported), "--state", str(state)]
    with closing(Server(exported)) as other:
        processes = [server.start(state, said[0], 1), other.start(state, said[1], 2)]
        readers = [subprocess.Popen([*classify, str(picture_files[0])], stderr=subprocess.PIPE) for _ in range(2)]
        versions = set()

        def seen() -> bool:
            if now := current(state, model.manifest):
                versions.add(now.version)
            ended = all(reader.poll() is not None for reader in readers)
            return ended and len(versions) > 3 and all(map(acknowledged_ids, said))

        wait_for(seen)
        for reader in readers:
            assert reader.communicate()[1] == b""
            assert reader.returncode == 0
        server.kill(processes[0])
        other.kill(processes[1])
    assert len(versions) > 1
    assert all(file.stat().st_size for file in said)
    assert_whole(state, model, acknowledged_ids(said[0]) | acknowledged_ids(said[1]))
    assert acknowledged_ids(said[0]).isdisjoint(acknowledged_ids(said[1]))
    learn_what_is_pending(state, model)


@pytest.mark.slow
def test_a_state_begun_by_two_at_once(exported: Path, server: Server, model: Model, tmp_path: Path) -> None:
    with closing(Server(exported)) as other:
        for count in range(10):
            state, said = (
                tmp_path / f"{count}.state",
                [tmp_path / f"{count}.{name}" for name in ("first", "second")],
            )
            processes = [server.start(state, said[0], count), other.start(state, said[1], count + 100)]
            wait_for(lambda said=said: all(map(acknowledged_ids, said)))
            server.kill(processes[0])
            other.kill(processes[1])
            assert_whole(state, model, set.union(*map(acknowledged_ids, said)))


def test_a_reset_below_an_open_learner(model: Model, tmp_path: Path) -> None:
    """It is told, and acknowledges nothing that nobody could find again."""
    state = tmp_path / "model.state"
    images = model.bundle.exemplars(REPLAY).pixels
    with closing(Learner(model, state, SMALL)) as learner:
        reset(state)
        with pytest.raises(StateError, match="was reset"):
            learner.store.add(images[:1], ["dots"])
    open_store(state, model).close()
    with alone(state), pytest.raises(StateError, match="is learning"):
        reset(state)


@pytest.mark.slow
def test_what_is_said_is_synced(bundle: Path, picture_files: list[Path], tmp_path: Path) -> None:
    """The order of system calls: nothing is acknowledged, or named, that a lost power supply could take away."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    trace, calls = tmp_path / "trace", "trace=write,pwrite64,fsync,fdatasync,rename"
    learn = ["-m", "ffruntime", "learn", "--model", bundle, picture_files[0], "--label", "dots", "--steps", "1"]
    done = subprocess.run(["strace", "-f", "-y", "-o", trace, "-e", calls, sys.executable, *learn], text=True)
    if done.returncode == 1:
        pytest.skip("processes cannot be traced here")
    events = []
    for line in trace.read_text().splitlines():
        if found := re.search(
            rf"(fsync|fdatasync|write|pwrite64|rename)\(.*?{tmp_path}/model.state/?([\w./-]*)", line
        ):
            call = found[1].replace("pwrite64", "write").replace("fdatasync", "fsync")
            events.append((call, re.sub(r"\.[0-9a-f]{16}\.new", ".new", found[2])))
        elif re.search(r'write\(1<.*"stored', line):
            events.append(("say", "stored"))
        elif re.search(r'write\(1<.*"version 1 adopted', line):
            events.append(("say", "adopted"))
    log, new, version = "learning.db-wal", "versions/.1.state.new", "versions/1.state"
    order = [event for event, following in zip(events, [*events[1:], None], strict=True) if event != following]
    stored, adopted = order.index(("say", "stored")), order.index(("say", "adopted"))
    assert order[stored - 2 : stored] == [("write", log), ("fsync", log)]
    assert order[adopted - 2 : adopted] == [("write", log), ("fsync", log)]
    renamed = order.index(("rename", new))
    assert order[renamed - 2 : renamed] == [("write", new), ("fsync", new)]
    assert order[renamed + 1] == ("fsync", "versions")
    assert ("write", log) in order[renamed + 2 : adopted]
    assert ("write", version) not in order


@pytest.mark.slow
def test_every_connection_syncs_every_commit(model: Model, tmp_path: Path) -> None:
    with closing(open_store(tmp_path / "model.state", model)) as store:
        assert store._db.all("PRAGMA synchronous") == [(2,)]  # FULL
        assert store._db.all("PRAGMA journal_mode") == [("wal",)]
