"""`ffruntime learn`, and what is done with what was learned: history, rollback, reset, diff, export, apply."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from pictures import CLASSES
from shapes import BYTES, EXEMPLARS

from ffruntime.cli import cli
from ffruntime.commands.learn import byte_count
from ffruntime.core.bundle import Bundle
from ffruntime.core.errors import FFError, StateError, UpdateRefused, UsageError
from ffruntime.core.state import read_state
from ffruntime.learning.learner import TOLERANCE
from ffruntime.learning.store import Store

FEW = ("--steps", "2", "--tolerance", "1", "--yes")


@pytest.fixture
def run(exported: Path, tmp_path: Path) -> Callable[..., Result]:
    """A command on the shared bundle, with a state of this test's own."""
    state = tmp_path / "model.state"

    def invoke(command: str, *arguments: object, place: Path = state, **how: object) -> Result:
        words = [command, "--model", exported, "--state", place, *arguments]
        return CliRunner().invoke(cli, [str(word) for word in words], **how)

    return invoke


def lines(result: Result) -> list[dict]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_learn_says_stored_and_then_what_came_of_it(run: Callable, picture_files: list[Path]) -> None:
    done = run("learn", *FEW, "--label", "ring", *picture_files[:2])
    assert done.exit_code == 0, done.output
    stored, adopted = done.stdout.splitlines()
    assert stored == "stored 2 examples, ids 49–50"
    assert adopted.startswith("version 1 adopted: 2 examples, ids 49–50, held-back images")
    stored, adopted = lines(run("learn", *FEW, "--label", "ring", "--json", picture_files[2]))
    assert stored == {"event": "stored", "ids": [51]}
    assert adopted.items() >= {"event": "adopted", "version": 2, "examples": [51], "evicted": 0}.items()
    assert adopted.keys() >= {"before", "after", "losses", "seconds"}
    assert run("learn", *FEW).output == ""  # nothing is pending


@pytest.mark.slow
def test_folders_say_what_is_in_them(run: Callable, picture_files: list[Path], tmp_path: Path) -> None:
    for file in picture_files[:6]:
        folder = tmp_path / "all" / file.stem.partition("-")[2]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder)
    (tmp_path / "all" / "fresh").mkdir()
    shutil.copy(picture_files[7], tmp_path / "all" / "fresh")
    (tmp_path / "all" / "@eaDir").mkdir()
    for ours in ("mnist.ff/manifest.json", "mnist.state/learning.db"):  # as where models lie
        (tmp_path / "all" / ours).parent.mkdir()
        (tmp_path / "all" / ours).touch()
    done = run("learn", *FEW, "--json", tmp_path / "all")
    assert lines(done)[0]["ids"] == list(range(49, 56))
    assert "@eaDir (looks like no class" in done.stderr
    for name in ("mnist.ff", "mnist.state"):
        assert f"left out: {tmp_path / 'all' / name} (a model, or what one has learned)" in done.stderr
    one = tmp_path / "all" / picture_files[0].stem.partition("-")[2]
    assert lines(run("learn", *FEW, "--json", one, "--label", "fresh"))[0]["ids"][0] == 56
    answer = run("classify", "--json", picture_files[7])
    assert json.loads(answer.stdout)["scores"].keys() == {*CLASSES, "fresh"}


def test_a_large_folder_is_learned_in_portions(run: Callable, picture_files: list[Path], tmp_path: Path) -> None:
    """Stored, learned, stored, learned: what is pending, and so the database, does not grow with the folder."""
    many = tmp_path / "many"
    many.mkdir()
    for index in range(150):
        (many / f"{index:03}.png").symlink_to(picture_files[0])
    (many / "070.png").unlink()
    (many / "070.png").write_bytes(b"no picture")
    done = run(
        "learn", "--steps", "1", "--tolerance", "1", "--json", "--replay-bytes", "52k", "--label", "bar", many
    )
    assert done.exit_code == 4
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events] == ["stored", "adopted"] * 3
    ids = [event.get("ids") or event.get("examples") for event in events]
    assert [len(some) for some in ids] == [64, 64, 63, 63, 22, 22]
    assert ids[0::2] == ids[1::2]
    with closing(sqlite3.connect(tmp_path / "model.state" / "learning.db")) as db:
        assert db.execute("SELECT COUNT(*) FROM examples").fetchone()[0] <= 52 * 1024 // BYTES
        assert db.execute("PRAGMA page_count").fetchone()[0] * 4096 < 52 * 1024 + 64 * BYTES + 48 * 4096


@pytest.mark.slow
@pytest.mark.posix
def test_ctrl_c_between_portions_says_what_is_left(
    exported: Path, picture_files: list[Path], tmp_path: Path
) -> None:
    """What was acknowledged was learned or is pending, and the pictures that were not read are counted."""
    place = ["--model", str(exported), "--state", str(tmp_path / "model.state")]
    command = [
        sys.executable,
        "-m",
        "ffruntime",
        "learn",
        *place,
        *FEW,
        "--label",
        "ring",
        *map(str, picture_files * 50),
    ]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = [running.stdout.readline() for _ in range(3)]
    assert [line.split()[0] for line in said] == ["stored", "version", "stored"]
    running.send_signal(signal.SIGINT)
    rest, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    said += rest.splitlines()
    stored = 64 * sum(line.startswith("stored") for line in said)
    assert f"pictures that were not stored, the last ones named: {1000 - stored}\n" in errors
    with closing(Store(tmp_path / "model.state", Bundle(exported).manifest)) as store:
        learned = 64 * sum(version.adopted for version in store.history())
        assert learned + len(store.pending()) == stored


def test_what_cannot_be_read_is_said_and_the_others_are_learned(
    run: Callable, picture_files: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    done = run("learn", *FEW, "--label", "ring", tmp_path / "broken.png", picture_files[0], tmp_path / "none.png")
    assert done.exit_code == 4
    assert done.stdout.startswith("stored 1 example, id 49\nversion 1 adopted")
    assert done.stderr.count("error: ") == done.stderr.count("\n") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.png"], "no such file"),
        ([__file__], "--label"),
        (["--label", "ring"], "of which pictures"),
        (["--replay-bytes", "4X", "a.png", "--label", "ring"], "no number of bytes"),
        (["--backend", "abacus", "a.png", "--label", "ring"], "unknown backend"),
        (["--steps", "0"], "--steps"),
        (["--lr", "0"], "--lr"),
    ],
)
def test_what_is_asked_wrongly(arguments: list[str], words: str, run: Callable, tmp_path: Path) -> None:
    done = run("learn", *arguments)
    assert isinstance(done.exception, UsageError) or done.exit_code == 2
    assert words in f"{done.exception} {done.output}"
    assert not (tmp_path / "model.state").exists()


def test_more_classes_than_patterns(run: Callable, picture_files: list[Path]) -> None:
    for name in ("one more", "two more"):
        assert run("learn", *FEW, "--label", name, picture_files[0]).exit_code == 0
    done = run("learn", *FEW, "--label", "three more", picture_files[0])
    assert isinstance(done.exception, UsageError)
    assert "8 label patterns" in str(done.exception)


@pytest.mark.slow
def test_a_refused_update_has_an_exit_code_of_its_own(run: Callable, picture_files: list[Path]) -> None:
    hurts = ("learn", "--steps", "10", "--lr", "10", "--tolerance", "0.01", "--label", "bar")
    done = run(*hurts, *picture_files[:4])
    assert isinstance(done.exception, UpdateRefused), done.output
    assert UpdateRefused.exit_code == 10
    assert "version 1 refused" in done.stdout
    assert run("learn", *FEW).output == ""
    assert "version 2 adopted: 4 examples" in run("learn", *FEW, "--retry").stdout
    rows = lines(run("history", "--json"))
    assert [(row["adopted"], row["kept"], row["current"]) for row in rows] == [
        (False, False, False),
        (True, True, True),
    ]


def test_an_update_that_blows_up_is_refused_however_much_is_tolerated(
    run: Callable, picture_files: list[Path]
) -> None:
    blows_up = ("learn", "--steps", "5", "--lr", "1e30", "--tolerance", "1", "--json", "--label", "bar")
    done = run(*blows_up, picture_files[0])
    assert isinstance(done.exception, UpdateRefused), done.output
    stored, refused = map(json.loads, done.stdout.splitlines())
    assert (stored["event"], refused["event"]) == ("stored", "refused")
    assert None in refused["losses"]  # not NaN, which is no JSON
    assert run("learn", *FEW).output == ""


@pytest.mark.slow
def test_history_rollback_and_diff(run: Callable, picture_files: list[Path]) -> None:
    empty = run("history")
    assert empty.stdout.splitlines()[1].split() == ["0", "bundle", "kept", "current"]
    for file in picture_files[:3]:
        run("learn", *FEW, "--label", "ring", file)
    shown = run("history").stdout.splitlines()
    assert [line.split()[0] for line in shown[1:]] == ["0", "1", "2", "3"]
    assert [line.endswith("current") for line in shown[1:]] == [False, False, False, True]
    (change,) = lines(run("diff", "--json"))
    assert (change["first"], change["second"]) == (2, 3)
    assert "head.weight" in change["tensors"]
    assert 0 <= change["decisions"]["differ"] < change["decisions"]["of"] == EXEMPLARS
    (none,) = lines(run("diff", "--json", "3", "3"))
    assert (none["tensors"], none["decisions"]["differ"]) == ({}, 0)
    assert "decisions on exemplars differ" in run("diff", "0").stdout
    assert run("rollback").stdout == "version 2 is current\n"
    assert lines(run("rollback", "0", "--json")) == [{"version": 0}]
    assert isinstance(run("rollback").exception, UsageError)
    assert isinstance(run("rollback", "9").exception, UsageError)
    assert isinstance(run("diff").exception, UsageError)
    assert len(lines(run("history", "--json"))) == 3


def test_a_state_goes_to_another_device(
    run: Callable, exported: Path, picture_files: list[Path], tmp_path: Path
) -> None:
    run("learn", *FEW, "--label", "fresh", picture_files[0])
    file, other = tmp_path / "learned.state", tmp_path / "other.state"
    assert "version 1; updates: 1, examples: 1" in run("export-state", file).stdout
    weights, state = read_state(file, Bundle(exported).manifest)
    assert state.classes[6:] == ("fresh",)
    assert "head.weight" in weights.tensors
    assert isinstance(run("export-state", file).exception, UsageError)
    assert run("export-state", "--force", file).exit_code == 0
    assert run("apply-state", file, place=other).stdout.startswith("version 1 is current: held-back images ")
    answers = [
        run("classify", "--json", picture_files[1], place=p).stdout for p in (other, tmp_path / "model.state")
    ]
    assert json.loads(answers[0])["scores"] == json.loads(answers[1])["scores"]
    (row,) = lines(run("history", "--json", place=other))
    assert (row["kind"], row["updates"], row["learned"]) == ("applied", 1, 1)
    assert run("learn", *FEW, "--label", "ring", picture_files[1], place=other).exit_code == 0
    nothing = tmp_path / "nothing.state"
    assert run("export-state", nothing, place=tmp_path / "none").exit_code == 0
    assert read_state(nothing, Bundle(exported).manifest)[0].tensors == {}


def test_a_state_that_harms_is_refused(run: Callable, picture_files: list[Path], tmp_path: Path) -> None:
    file, other = tmp_path / "learned.state", tmp_path / "other.state"
    run("learn", "--steps", "10", "--lr", "10", "--tolerance", "1", "--label", "bar", picture_files[0])
    run("export-state", file)
    done = run("apply-state", file, place=other)
    assert isinstance(done.exception, UpdateRefused)
    assert str(done.exception).startswith(f"{file}: costs more than is tolerated: held-back images ")
    assert (done.stdout, "--force" in str(done.exception)) == ("", True)
    row, forced = (
        lines(run("history", "--json", place=other)),
        lines(run("apply-state", "--json", "--force", file, place=other)),
    )
    assert [(version["kind"], version["adopted"]) for version in row] == [("applied", False)]
    assert (forced[0]["version"], forced[0]["adopted"]) == (2, True)
    assert forced[0]["after"] < forced[0]["before"] - TOLERANCE


def test_reset_asks(run: Callable, picture_files: list[Path], tmp_path: Path) -> None:
    assert "nothing was learned" in run("reset").stdout
    run("learn", *FEW, "--label", "ring", picture_files[0])
    assert run("reset", input="n\n").exit_code == 1
    assert (tmp_path / "model.state").exists()
    assert run("reset", input="y\n").exit_code == 0
    assert not (tmp_path / "model.state").exists()
    assert isinstance(run("rollback").exception, StateError)
    run("learn", *FEW, "--label", "ring", picture_files[0])
    (tmp_path / "model.state" / "learning.db").write_bytes(b"anything" * 1000)
    assert isinstance(run("history").exception, StateError)
    assert isinstance(run("learn").exception, StateError)
    assert run("reset", "--yes").exit_code == 0
    assert run("history").exit_code == 0


def test_state_and_model_from_the_environment(bundle: Path, picture_files: list[Path], tmp_path: Path) -> None:
    learn = ["learn", *FEW, "--label", "ring", str(picture_files[0])]
    environment = {"FF_MODEL": str(bundle), "FF_STATE": str(tmp_path / "elsewhere")}
    assert CliRunner().invoke(cli, learn, env=environment).exit_code == 0
    assert (tmp_path / "elsewhere" / "learning.db").exists()
    assert CliRunner().invoke(cli, learn, env={"FF_MODEL": str(bundle)}).exit_code == 0
    assert (tmp_path / "model.state" / "learning.db").exists()


@pytest.mark.posix
def test_ctrl_c_keeps_what_is_stored(exported: Path, picture_files: list[Path], tmp_path: Path) -> None:
    place = ["--model", str(exported), "--state", str(tmp_path / "model.state")]
    command = [sys.executable, "-m", "ffruntime", "learn", *place, "--steps", "100000", "--yes", "--label", "ring"]
    pipe = subprocess.PIPE
    running = subprocess.Popen([*command, *map(str, picture_files)], stdout=pipe, stderr=pipe, text=True)
    assert running.stdout.readline() == "stored 20 examples, ids 49–68\n"  # at once, however long the update takes
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "stored and pending: 20" in said
    assert "Traceback" not in said


@pytest.mark.posix
def test_a_bar_where_somebody_watches(exported: Path, picture_files: list[Path], tmp_path: Path) -> None:
    """On a terminal; results alone are on stdout."""
    ours, theirs = os.openpty()
    place = ["--model", str(exported), "--state", str(tmp_path / "model.state")]
    command = [sys.executable, "-m", "ffruntime", "learn", *place, *FEW, "--label", "ring", str(picture_files[0])]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.returncode == 0
    assert done.stdout.count("\n") == 2
    assert "learning" in shown
    assert "100%" in shown


@pytest.mark.parametrize(("text", "count"), [("0", 0), ("500", 500), ("500k", 512_000), ("4M", 4 << 20)])
def test_bytes(text: str, count: int) -> None:
    assert byte_count(text) == count


def test_the_help_tells_the_truth(run: Callable) -> None:
    assert f"Default: {TOLERANCE}." in " ".join(run("learn", "--help").output.split())
    codes = {error.exit_code for error in (FFError, *FFError.__subclasses__())}
    assert codes == {*range(1, 13)}
    assert np.all([f"{code} " in run("learn", "--help").output for code in (8, 9, 10, 12, 130)])
