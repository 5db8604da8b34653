"""The model that comes with the runtime: found where there is no other, and learned on without being touched."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from commands import in_process_text

from ffruntime.core import shipped
from ffruntime.core.bundle import state_directory
from ffruntime.core.durable import sha256


@pytest.fixture
def installed(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle in a package's folder, which commands run beside."""
    model = tmp_path / "site-packages" / "models" / shipped.MODEL.name
    shutil.copytree(exported, model)
    monkeypatch.setattr(shipped, "MODEL", model)
    monkeypatch.delenv("FF_MODEL", raising=False)
    return model


def test_it_answers_where_there_is_no_model(installed: Path, picture_files: list[Path], tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    done = in_process_text("ffruntime", "classify", picture_files[0], cwd=work)
    assert done.returncode == 0
    assert done.stdout.startswith(f"{picture_files[0]}: {picture_files[0].stem[3:]}, ")
    assert done.stderr == f"no model.ff here: taking the model of digits that comes with ffruntime, {installed}\n"
    own = tmp_path / "own.ff"
    shutil.copytree(installed, own)
    for env, name in (({"FF_MODEL": str(own)}, own), ({}, work / "model.ff")):
        if not name.exists():
            shutil.copytree(installed, name)
        named = in_process_text("ffruntime", "classify", picture_files[0], cwd=work, env=env)
        assert (named.returncode, named.stderr) == (0, "")


def test_what_is_learned_on_it_lies_in_the_working_directory(
    installed: Path, picture_files: list[Path], tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    before = {file: sha256(file) for file in installed.rglob("*") if file.is_file()}
    learn = ("learn", picture_files[0], "--label", "new", "--steps", "1")
    done = in_process_text("ffruntime", *learn, cwd=work)
    assert done.returncode == 0, done.stderr
    assert [file.name for file in work.iterdir()] == ["mnist.state"]
    assert "new" in in_process_text("ffruntime", "info", cwd=work).stdout.splitlines()[-1]
    assert before == {file: sha256(file) for file in installed.rglob("*") if file.is_file()}
    assert "reset" in in_process_text("ffruntime", "reset", "--yes", cwd=work).stdout
    assert not list(work.iterdir())


def test_a_bundle_of_ones_own_has_its_state_beside_it(tmp_path: Path) -> None:
    assert state_directory(tmp_path / shipped.MODEL.name) == tmp_path / "mnist.state"
    assert state_directory(shipped.MODEL) == Path("mnist.state")


def test_without_it_the_missing_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "MODEL", tmp_path / "models" / "mnist.ff")
    done = in_process_text("ffruntime", "info", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert done.stderr.startswith("error: model.ff: no such bundle; train one with")
