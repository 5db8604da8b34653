"""What another program has made is named, and nothing is added to it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest

from ffruntime.core.errors import UsageError
from fftrain.study import make_study, open_storage, open_study


@pytest.mark.parametrize("create", [False, True])
def test_a_database_of_another_program_stays_as_it_is(create: bool, tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    with closing(sqlite3.connect(file)) as db:
        db.execute("CREATE TABLE theirs (x)")
    before = file.read_bytes()
    with pytest.raises(UsageError, match="another program"):
        open_storage(f"sqlite:///{file}", create)
    assert file.read_bytes() == before


@pytest.mark.parametrize("name", ["junk.db", "junk.log"])
def test_a_file_that_holds_no_studies_is_one_line(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(b"\xff\x90junk\n" * 500)
    with pytest.raises(UsageError, match="cannot be opened") as caught:
        open_storage(str(file) if name.endswith(".log") else f"sqlite:///{file}", True)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_study_of_another_program_is_refused(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path / 'studies.db'}", True)
    optuna.create_study(study_name="theirs", storage=storage).optimize(
        lambda trial: trial.suggest_float("x", 0, 1), n_trials=1
    )
    for use in (lambda: open_study(storage, "theirs"), lambda: make_study(storage, "theirs", {})):
        with pytest.raises(UsageError, match="not made by"):
            use()
