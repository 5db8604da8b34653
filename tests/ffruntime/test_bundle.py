"""The bundle: refuses what does not match, and is written as a whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from ffruntime import Model
from ffruntime.core import bundle as bundles
from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.durable import sync
from ffruntime.core.errors import BundleError, StorageError
from ffruntime.core.manifest import MANIFEST, WEIGHTS, Photo
from ffruntime.learning.learner import Learner


def read_everything(path: Path) -> None:
    """All that a careful reader does."""
    manifest = Bundle(path).manifest
    Bundle(path).weights()
    for name in manifest.files:
        Bundle(path).verified(name)


def edit(path: Path, change: Callable[[dict], object]) -> None:
    """Change the manifest as a JSON object."""
    manifest = json.loads((path / MANIFEST).read_text())
    change(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))


def test_a_good_bundle_is_read(bundle: Path) -> None:
    read_everything(bundle)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_found(bundle: Path, data: st.DataObject) -> None:
    names = sorted(Bundle(bundle).manifest.files)
    file = bundle / data.draw(st.sampled_from(names))
    whole = file.read_bytes()
    position = data.draw(st.integers(0, len(whole) - 1))
    file.write_bytes(
        whole[:position] + bytes([whole[position] ^ 1 << data.draw(st.integers(0, 7))]) + whole[position + 1 :]
    )
    try:
        with pytest.raises(BundleError, match=f"{file}: damaged"):
            read_everything(bundle)
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda b: (b / WEIGHTS).write_bytes((b / WEIGHTS).read_bytes()[:-1]),
            r"weights\.safetensors: \d+ bytes instead",
        ),
        (lambda b: (b / WEIGHTS).unlink(), r"weights\.safetensors: missing"),
        (lambda b: (b / MANIFEST).unlink(), "not a model bundle"),
        (lambda b: (b / MANIFEST).write_bytes(b""), r"manifest\.json: damaged"),
        (lambda b: (b / MANIFEST).write_bytes(b"\xff\xfe{}"), r"manifest\.json: damaged"),
        (lambda b: (b / MANIFEST).write_bytes((b / MANIFEST).read_bytes()[:500]), r"manifest\.json: damaged"),
        (lambda b: (b / MANIFEST).write_text("[1]"), r"manifest\.json: damaged"),
        (lambda b: edit(b, lambda m: m.update(format=6)), "format 6 is newer than this program reads"),
        (lambda b: edit(b, lambda m: m.update(format="1")), "format '1' is none that this program reads"),
        (lambda b: edit(b, lambda m: m.pop("classes")), r"damaged: .*classes"),
        (lambda b: edit(b, lambda m: m.update(surprise=1)), r"damaged: .*surprise"),
        (lambda b: edit(b, lambda m: m["network"]["units"][0]["ops"][0].update(kernel=0)), r"damaged: .*kernel"),
        (
            lambda b: edit(b, lambda m: m["network"]["units"][0]["ops"][0].update(out=17)),
            "'head|'unit1.conv1.bias' is",
        ),
        (lambda b: edit(b, lambda m: m.update(classes=[str(i) for i in range(9)])), "9 classes, but fewer"),
        (lambda b: edit(b, lambda m: m["network"]["units"][0]["ops"][0].update(kernel=40)), "nothing is left of"),
        (lambda b: edit(b, lambda m: m.update(classes=["0", "0"])), "a class is named twice"),
        (lambda b: edit(b, lambda m: m["preprocessing"].update(kind="sound")), r"damaged: .*preprocessing"),
        (
            lambda b: edit(b, lambda m: m.update(preprocessing={"kind": "digit", "box": 17})),
            "17 pixels does not fit",
        ),
        (lambda b: (b / MANIFEST).write_text('{"a":' * 9999), r"manifest\.json: damaged"),
        (lambda b: edit(b, lambda m: m["files"].update({"a\0b": m["files"][WEIGHTS]})), "missing"),
        (lambda b: edit(b, lambda m: m["files"].pop(WEIGHTS)), "interrupted"),
        (lambda b: edit(b, lambda m: m["files"].update({"../secret": m["files"][WEIGHTS]})), "outside the bundle"),
        (
            lambda b: edit(b, lambda m: m["files"].update({"/etc/passwd": m["files"][WEIGHTS]})),
            "outside the bundle",
        ),
    ],
)
def test_what_does_not_match_is_refused(harm: Callable[[Path], object], message: str, bundle: Path) -> None:
    harm(bundle)
    with pytest.raises(BundleError, match=message) as caught:
        read_everything(bundle)
    assert str(bundle) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fields_that_have_a_default_may_be_missing(bundle: Path) -> None:
    def shorten(manifest: dict) -> None:
        del manifest["shortlist"], manifest["modes"], manifest["learning"]
        del manifest["training"]["data"]["path"], manifest["training"]["data"]["split"]

    edit(bundle, shorten)
    read_everything(bundle)
    manifest = Bundle(bundle).manifest
    assert (manifest.format, manifest.preprocessing, manifest.learning) == (1, Photo(), None)
    assert write_bundle(bundle, manifest, {"note": b"new"}).manifest.modes == ("goodness", "classifier")


def test_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        Bundle(tmp_path / "nothing.ff")
    with pytest.raises(BundleError, match="not a model bundle"):
        Bundle(tmp_path)


def test_files_are_replaced_and_what_is_no_longer_listed_goes(bundle: Path) -> None:
    manifest = Bundle(bundle).manifest
    weights = (bundle / WEIGHTS).read_bytes()
    write_bundle(bundle, msgspec.structs.replace(manifest, files={}), {WEIGHTS: weights, "note": b"new"})
    left = sorted(str(file.relative_to(bundle)) for file in bundle.rglob("*") if file.is_file())
    assert left == sorted([MANIFEST, WEIGHTS, "note"])
    read_everything(bundle)


def other_weights(bundle: Path) -> bytes:
    """Weights of the same network, all of them other numbers."""
    tensors = Bundle(bundle).weights()
    return save({name: tensor + 1 for name, tensor in tensors.items()})


@pytest.mark.parametrize("moment", range(12))
@pytest.mark.parametrize("replaced", ["goodness.onnx", WEIGHTS])
def test_killed_at_any_moment_of_a_write(
    replaced: str, moment: int, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every rename and sync that did or did not happen: the old bundle, the new one, or a clear word.

    Only weights that are being replaced can leave a bundle that is refused, and never one that is wrong.
    """
    manifest = Bundle(bundle).manifest
    content = other_weights(bundle) if replaced == WEIGHTS else b"another graph"
    steps = iter(range(moment))

    class PowerCut(BaseException):
        pass

    def cut(original: Callable) -> Callable:
        def step(*arguments: object, **keywords: object) -> object:
            if next(steps, None) is None:
                raise PowerCut
            return original(*arguments, **keywords)

        return step

    monkeypatch.setattr(Path, "replace", cut(Path.replace))
    monkeypatch.setattr(os, "fsync", cut(os.fsync))
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # the dead clean nothing up
    with contextlib.suppress(PowerCut):
        write_bundle(bundle, manifest, {replaced: content, "extra": b"x"})
    monkeypatch.undo()
    try:
        read_everything(bundle)  # whole, with or without the files that were under way
    except BundleError as error:
        assert replaced == WEIGHTS
        assert "its writing was interrupted" in str(error)  # noqa: PT017
    write_bundle(bundle, manifest, {replaced: content, "extra": b"x"})
    read_everything(bundle)
    assert (bundle / replaced).read_bytes() == content


def test_on_macos_a_file_is_synced_as_far_as_the_medium(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By F_FULLFSYNC; where the file system has none (that of a network), by `fsync`; any other error counts."""
    fcntl = pytest.importorskip("fcntl")
    asked, synced, error = list[int](), list[int](), OSError(errno.ENOTSUP, "not supported")

    def ask(descriptor: int, what: int) -> None:
        asked.append(what)
        if os.fstat(descriptor).st_size == 1:
            raise error

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", ask)
    monkeypatch.setattr(os, "fsync", synced.append)
    with (tmp_path / "file").open("wb", buffering=0) as file:
        sync(file.fileno())
        assert (asked, synced) == ([51], [])
        file.write(b"x")
        sync(file.fileno())
        assert (asked, synced) == ([51, 51], [file.fileno()])
        error.errno = errno.EIO
        with pytest.raises(OSError, match="not supported"):
            sync(file.fileno())


def test_a_full_disk_leaves_what_was_there(small_disk: Callable[[str], Path], bundle: Path) -> None:
    disk = small_disk("512k")
    manifest = Bundle(bundle).manifest
    path = disk / "model.ff"
    small = msgspec.structs.replace(manifest, files={})
    write_bundle(path, small, {WEIGHTS: b"w" * 200_000})
    listed = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(StorageError, match="No space left on device; what was there is unchanged"):
        write_bundle(path, small, {WEIGHTS: b"x" * 200_000, "more": b"y" * 200_000})
    assert {file.name: file.read_bytes() for file in path.iterdir()} == listed
    with pytest.raises(StorageError, match="No space left"):
        write_bundle(disk / "new.ff", small, {WEIGHTS: b"z" * 600_000})
    assert not (disk / "new.ff").exists()


KILLED = """
import sys, msgspec
from pathlib import Path
from ffruntime.bundle import *
path = Path(sys.argv[1])
manifest = read_manifest(path)
print("ready", flush=True)
for number in range(10**9):
    write(path, manifest, {"goodness.onnx": b"%d" % number * 1000, "extra": b"%d" % number})
"""


@pytest.mark.slow
@pytest.mark.posix
def test_kill_9_while_writing(bundle: Path) -> None:
    """Twenty writers shot at a random moment: what they leave can always be read, and written again."""
    manifest = Bundle(bundle).manifest
    for number in range(20):
        with subprocess.Popen([sys.executable, "-c", KILLED, str(bundle)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(0.003 * number)
            writer.send_signal(signal.SIGKILL)
        read_everything(bundle)
    write_bundle(bundle, manifest, {"goodness.onnx": b"last", "extra": b"last"})
    assert bundles.sha256(bundle / "extra") == Bundle(bundle).manifest.files["extra"].sha256


@pytest.mark.parametrize("fault", ["part", "labels", "images"])
def test_exemplars_that_are_not_of_the_network_are_refused(fault: str, bundle: Path) -> None:
    """Their hash is right, and what they hold is not."""
    tensors = Bundle(bundle).tensors("exemplars.safetensors")
    if fault == "part":
        del tensors["part"]
    else:
        tensors[fault] = tensors[fault] + 9 if fault == "labels" else np.ascontiguousarray(tensors[fault][..., 1:])
    written = write_bundle(bundle, Bundle(bundle).manifest, {"exemplars.safetensors": save(tensors)})
    with pytest.raises(BundleError, match=r"exemplars\.safetensors: "):
        written.exemplars()


def test_a_bundle_that_does_not_say_how_it_learns_is_refused(bundle: Path) -> None:
    written = write_bundle(bundle, msgspec.structs.replace(Bundle(bundle).manifest, learning=None), {})
    with pytest.raises(BundleError, match="does not say how its units learn"):
        Learner(Model(written))
    assert not written.state_directory.exists()
