"""While pictures keep coming, what another process learns counts from the next one on."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from pictures import CLASSES
from shapes import SHAPE

from ffruntime.core.bundle import Bundle, state_directory
from ffruntime.learning import watch
from ffruntime.learning.directory import reset
from ffruntime.learning.store import Store
from ffruntime.model import Model


@pytest.fixture
def store(bundle: Path) -> Iterator[Store]:
    with closing(Store(state_directory(bundle), Bundle(bundle).manifest)) as opened:
        yield opened


def adopt(store: Store, bundle: Path, by: float) -> int:
    """A new version, in which a bias differs from the bundle's."""
    bias = Bundle(bundle).weights()["unit2.conv1.bias"] + np.float32(by)
    return store.adopt(store.current_version(), "update", {"unit2.conv1.bias": bias}, ())


def test_every_change_counts_and_nothing_is_read_without_one(
    bundle: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, warnings, opened = Model(bundle), [], []
    newest = watch.watching(model, store.directory, warnings.append)
    real = watch.Store
    monkeypatch.setattr(watch, "Store", lambda *a, **k: opened.append(1) or real(*a, **k))
    image = np.full((1, *SHAPE), 99, np.uint8)
    shipped = model.scores(image)
    np.testing.assert_array_equal(newest().scores(image), shipped)
    adopt(store, bundle, 0.2)
    first = newest()
    assert not np.array_equal(first.scores(image), shipped)
    np.testing.assert_array_equal(first.scores(image), Model(bundle).scores(image))
    looked = len(opened)
    assert looked == 2
    assert all(newest() is first for _ in range(20))
    assert len(opened) == looked
    ids = store.add(image[0][None], ["ten"])  # a class, and no new version
    assert newest().classes[-1] == "ten"
    assert ids
    assert store.rollback(0) == 0
    np.testing.assert_array_equal(newest().scores(image)[:, :6], shipped)
    number = adopt(store, bundle, 0.3)
    store.version_file(number).write_bytes(b"damaged")
    np.testing.assert_array_equal(newest().scores(image)[:, :6], shipped)
    (problem,) = warnings
    assert "damaged" in problem
    assert problem.endswith("what was learned before counts")
    store.close()
    reset(store.directory)
    assert newest().classes == model.manifest.classes
    assert len(warnings) == 1


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--shipped",)])
@pytest.mark.posix
def test_classify_watch_takes_up_what_is_learned(
    options: tuple[str, ...], bundle: Path, picture_files: list[Path], tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    command = [sys.executable, "-m", "ffruntime", "classify", "--model", str(bundle), "--json", *options]
    pipe = subprocess.PIPE
    process = subprocess.Popen([*command, "--watch", str(inbox)], stdout=pipe, stderr=pipe, text=True)
    assert process.stdout
    assert process.stderr
    assert "Ctrl-C ends it" in process.stderr.readline()

    def classes(name: str) -> set[str]:
        shutil.copy(picture_files[0], inbox / name)
        return set(json.loads(process.stdout.readline())["scores"])

    assert len(classes("before.png")) == 6
    with closing(Store(state_directory(bundle), Bundle(bundle).manifest)) as store:  # was not there at the start
        store.add(np.zeros((1, *SHAPE), np.uint8), ["ten"])
        adopt(store, bundle, 0.2)
    assert classes("after.png") - {*CLASSES} == (set() if options else {"ten"})
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
