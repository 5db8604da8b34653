"""`fftrain` as a user types it, up to the lost power supply."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from commands import in_process_text

from ffruntime.core.bundle import Bundle
from fftrain.checkpoint import read_checkpoint
from fftrain.commands.shared import WAITING, import_torch
from fftrain.recipe import recipe_names

ROOT = Path(__file__).parents[2]
TINY = str(ROOT / "tests" / "tiny.toml")
QUICK = ("mnist", "--offline", "--recipe", TINY, "--device", "cpu", "--threads", "1")


def fftrain(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "fftrain", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment})


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """As they were: commands in this process set them."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


here = partial(in_process_text, "fftrain")  # what says no, without a process that waits for torch


@pytest.mark.parametrize("own", [{}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "ACTIVE"}], ids=str)
def test_threads_wait_as_the_user_says(own: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Or else so that another program on a core costs little."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    import_torch()
    found = {name: os.environ[name] for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY") if name in os.environ}
    assert found == (own or WAITING)


def start_and_signal(arguments: tuple[str, ...], line: str, number: int, cwd: Path) -> tuple[int, str]:
    """Run until stderr says `line`, then send the signal: (exit code, rest of stderr)."""
    command = [sys.executable, "-m", "fftrain", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=cwd) as run:
        assert run.stderr is not None
        for said in run.stderr:
            if line in said:
                break
        run.send_signal(number)
        rest = run.stderr.read()
    return run.returncode, rest


def assert_one_line(done: subprocess.CompletedProcess, code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """A run from start to end on the offline sample."""
    folder = tmp_path_factory.mktemp("trained")
    done = fftrain(*QUICK, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "model.ff", done


@pytest.mark.slow
def test_a_run_says_what_it_does_and_how_well(trained: tuple[Path, subprocess.CompletedProcess]) -> None:
    path, done = trained
    for word in (
        "OFFLINE SAMPLE",
        "recipe",
        "about",
        "from start to end",
        "epoch   3/3",
        "disc",
        "validation: goodness",
    ):
        assert word in done.stderr
    summary = json.loads(done.stdout)
    assert summary["offline_sample"]
    assert summary["accuracy"]["test"]["goodness"] > 0.7
    manifest = Bundle(path).manifest
    for name in manifest.files:
        Bundle(path).verified(name)
    assert manifest.training.data.offline_sample
    assert manifest.accuracy == summary["accuracy"]
    assert not path.with_name("model.ff.checkpoint").exists()


@pytest.mark.slow
@pytest.mark.posix
def test_killed_and_resumed_ends_with_the_same_weights(
    trained: tuple[Path, subprocess.CompletedProcess], tmp_path: Path
) -> None:
    """kill -9 after the first epoch; --resume goes on from its checkpoint to the very same network."""
    start_and_signal(QUICK, "epoch   1/3", signal.SIGKILL, tmp_path)
    assert not (tmp_path / "model.ff").exists()
    assert_one_line(here(*QUICK, cwd=tmp_path), 2, "interrupted", "--resume")
    _, progress, _ = read_checkpoint(tmp_path / "model.ff.checkpoint")
    done = fftrain(*QUICK, "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ("epoch   1/3" in done.stderr) == (progress.epoch == 0)  # its checkpoint may have been put off
    whole, resumed = Bundle(trained[0]).manifest, Bundle(tmp_path / "model.ff").manifest
    assert whole.files == resumed.files
    assert whole.accuracy == resumed.accuracy


@pytest.mark.slow
@pytest.mark.posix
def test_a_forced_run_that_was_interrupted_can_be_resumed(
    trained: tuple[Path, subprocess.CompletedProcess], tmp_path: Path
) -> None:
    """The old model stays until the new one is whole; then it is replaced."""
    path = Path(shutil.copytree(trained[0], tmp_path / "model.ff"))
    before = Bundle(path).manifest
    start_and_signal((*QUICK, "--seed", "1", "--force"), "epoch   2/3", signal.SIGINT, tmp_path)
    assert Bundle(path).manifest == before
    done = fftrain(*QUICK, "--seed", 1, "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Bundle(path).manifest.training.seed == 1


@pytest.mark.slow
@pytest.mark.posix
def test_ctrl_c_writes_a_checkpoint_and_says_how_to_go_on(tmp_path: Path) -> None:
    code, rest = start_and_signal((*QUICK, "--epochs", "50"), "epoch   1/50", signal.SIGINT, tmp_path)
    assert code == 130, rest
    assert "--epochs 50 --resume" in rest
    assert "Traceback" not in rest
    assert (tmp_path / "model.ff.checkpoint").exists()


@pytest.mark.slow
def test_an_untrained_bundle_without_some_classes(tmp_path: Path) -> None:
    done = fftrain(*QUICK, "--epochs", 0, "--classes", "0-8", "--out", "new.ff", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = Bundle(tmp_path / "new.ff").manifest
    assert manifest.classes == tuple("012345678")
    assert manifest.network.label.patterns == 11
    assert manifest.accuracy == {}
    assert manifest.training.epochs == 0
    for program in (["ffexport"], ["ffruntime", "verify"]):  # a classifier whose logits are all 0, and no NaN
        command = [sys.executable, "-m", *program, "--model", "new.ff"]
        checked = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert checked.returncode == 0, checked.stderr
        assert "reproduce" in checked.stdout


@pytest.mark.slow
def test_a_model_that_is_there_is_not_overwritten(
    trained: tuple[Path, subprocess.CompletedProcess], tmp_path: Path
) -> None:
    assert_one_line(here(*QUICK, "--out", trained[0], cwd=tmp_path), 2, "there is a model already", "--force")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    assert_one_line(here(*QUICK, "--out", "notes", cwd=tmp_path), 2, "notes", "no model bundle")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("mnist", "--recipe", "papre"), 2, ("unknown recipe 'papre'", "did you mean 'paper'")),
        (("mnist", "--recipe", "nothing.toml"), 2, ("nothing.toml", "No such file")),
        (("mnist", "--classes", "0-12"), 2, ("--classes 0-12",)),
        (("mnist", "--resume", "--force"), 2, ("exclude each other",)),
        (("mnist", "--out", "/"), 2, ("--out /", "no name")),
        ((), 2, ("Missing command", "--help")),
        (("mnist", "--resume", "--offline"), 2, ("there is no model.ff.checkpoint",)),
    ],
)
def test_wrong_words(arguments: tuple[str, ...], code: int, words: tuple[str, ...], tmp_path: Path) -> None:
    assert_one_line(here(*arguments, cwd=tmp_path), code, *words)


@pytest.mark.slow
def test_a_full_disk_is_said_before_the_work(small_disk: Callable[[str], Path], tmp_path: Path) -> None:
    """On a really full file system of 256 KiB: the first checkpoint does not fit."""
    disk = small_disk("256k")
    done = here(*QUICK, "--out", disk / "model.ff", cwd=tmp_path)
    assert done.returncode == 8, done.stderr
    assert "No space left on device" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert list(disk.iterdir()) == []


@pytest.mark.slow
def test_resuming_towards_an_untrained_bundle_loses_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.ff.checkpoint").write_bytes(b"hours of work")
    done = here(*QUICK, "--resume", "--epochs", 0, cwd=tmp_path)
    assert done.returncode == 2
    assert "exclude each other" in done.stderr
    assert (tmp_path / "model.ff.checkpoint").read_bytes() == b"hours of work"


def test_cuda_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = here("mnist", "--device", "cuda", cwd=tmp_path)
    assert_one_line(done, 6, "--device cuda", "--device cpu")


def test_a_recipe_with_a_typing_error_names_the_field(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(Path(TINY).read_text().replace("batch = 64", "bach = 64"))
    assert_one_line(here("mnist", "--recipe", "mine.toml", cwd=tmp_path), 2, "mine.toml", "bach", "$.schedule")


@pytest.mark.slow
def test_a_recipe_that_does_not_fit_the_images(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(Path(TINY).read_text().replace("kernel = 5", "kernel = 55"))
    done = here("mnist", "--offline", "--recipe", "mine.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert "unit1.conv1" in done.stderr


def test_recipes_are_listed(tmp_path: Path) -> None:
    listed = here("recipes", cwd=tmp_path).stdout
    assert [line.split()[0] for line in listed.splitlines()] == recipe_names()


@pytest.mark.gpu
def test_training_on_a_gpu(tmp_path: Path) -> None:
    """A small network learns on CUDA, and its bundle reproduces its golden vectors on the CPU."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here")
    done = fftrain("mnist", "--offline", "--recipe", TINY, "--device", "cuda", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["accuracy"]["validation"]["goodness"] > 0.7
    exported = subprocess.run([sys.executable, "-m", "ffexport"], capture_output=True, text=True, cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
