"""Where programs run: without standard streams, without a home, as a container's first process."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import click
import pytest

from ffruntime import command
from ffruntime.core import durable
from ffruntime.core.data import cache_directory
from ffruntime.core.durable import sync_directory
from ffruntime.core.errors import StateError, StorageError
from ffruntime.learning.directory import alone
from ffruntime.lock import SCRATCH, scratch_folder, writing
from ffruntime.start import start as start_program


def start(*arguments: object, closed: str = "", **options: object) -> subprocess.Popen:
    """`ffruntime` with these arguments, and without the streams `closed`, as a shell writes that."""
    words = " ".join(f"'{word}'" for word in (sys.executable, "-m", "ffruntime", *arguments))
    pipe = subprocess.PIPE
    return subprocess.Popen(["sh", "-c", f"exec {words} {closed}"], stdout=pipe, stderr=pipe, text=True, **options)


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_without_standard_streams(closed: str, bundle: Path, picture_files: list[Path]) -> None:
    learn = ("learn", "--model", bundle, "--steps", 1, "--label", "dots", picture_files[0])
    process = start(*learn, closed=closed)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    history = start("history", "--model", bundle, "--json")
    assert '"adopted": true' in history.communicate(timeout=60)[0]  # nothing was printed into the database
    assert "Traceback" not in said + errors


def test_a_picture_from_a_closed_stream(bundle: Path) -> None:
    process = start("classify", "--model", bundle, "-", closed="<&-")
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (4, "error: standard input: empty file\n")


@pytest.mark.posix
def test_sigterm_ends_a_process_that_waits(bundle: Path, tmp_path: Path) -> None:
    process = start("classify", "--model", bundle, "--watch", tmp_path)
    assert process.stderr
    process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert process.stderr.read() == ""


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    assert cache_directory() == Path(".cache/ffedge")


@pytest.mark.parametrize(("said", "counts"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_file_systems_whose_directories_are_not_synced(
    said: int, counts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(_descriptor: int) -> None:
        raise OSError(said, os.strerror(said))

    monkeypatch.setattr(durable.os, "fsync", fsync)
    if counts:
        with pytest.raises(OSError, match="Input/output"):
            sync_directory(tmp_path)
    else:
        sync_directory(tmp_path)


def test_too_little_memory_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def greedy() -> None:
        raise MemoryError

    with pytest.raises(SystemExit) as ended, mock.patch.object(sys, "argv", ["greedy"]):
        command.run(greedy)
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: not enough memory")


def test_ctrl_c_while_a_program_is_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loading.py").write_text("raise KeyboardInterrupt")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit) as ended:
        start_program("loading")
    assert ended.value.code == command.INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"


def test_scratch_folders_of_killed_processes_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead, young, other = tmp_path / f"{SCRATCH}dead", tmp_path / f"{SCRATCH}young", tmp_path / "other"
    for folder in (dead, young, other):
        folder.mkdir()
        (folder / "weights").write_bytes(b"x")
    (tmp_path / f"{SCRATCH}link").symlink_to(other)
    with scratch_folder() as alive:
        for folder in (alive, dead, other):
            os.utime(folder, (0, 0))
        with scratch_folder():
            assert alive.exists()
            assert not dead.exists()
    assert not alive.exists()
    assert {file.name for file in tmp_path.iterdir()} == {young.name, other.name, f"{SCRATCH}link"}
    assert (other / "weights").exists()


@pytest.mark.parametrize("of", ["bundle", "state"])
def test_a_lock_that_another_process_has_is_one_line(of: str, tmp_path: Path) -> None:
    hold, kind = (writing, StorageError) if of == "bundle" else (alone, StateError)
    with hold(tmp_path / "x"), pytest.raises(kind, match="another process is"), hold(tmp_path / "x"):
        pass
    with hold(tmp_path / "x"):  # it is free again
        pass
