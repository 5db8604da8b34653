"""Bundles and states that somebody made to do harm: hashes are right, and what they vouch for is not."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from ffruntime import Model
from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.data import read_idx
from ffruntime.core.durable import write_atomically
from ffruntime.core.errors import BundleError, DataError, FFError, StorageError
from ffruntime.core.manifest import EXEMPLARS, GOLDEN, MANIFEST, WEIGHTS
from ffruntime.core.reading import read_regular
from ffruntime.core.state import read_state
from ffruntime.golden import check
from ffruntime.lock import writing

NO_LIMIT = 1 << 20


def list_file(bundle: Path, name: str, data: bytes | None = None) -> None:
    """Have the manifest vouch for a file, written where there are `data`; of what is not read it says that it is
    empty."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    if data is not None:
        (bundle / name).write_bytes(data)
    content = data or b""
    manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# --- names


@pytest.mark.parametrize(
    "name",
    [
        "./weights.safetensors",
        ".//golden.safetensors",
        "fp16//weights.safetensors",
        "fp16/./weights.safetensors",
        "fp16/",
        "weights.safetensors.",
        "weights.safetensors ",
        "Weights.safetensors",
        "manifest.json",
        "MANIFEST.JSON",
        ".manifest.json.new",
        "fp16/.hidden",
        "a\\b",
        "a:b",
        "a\nb",
        "a\x1b[2J",
        "é",
        "x" * 300,
    ],
)
def test_a_file_has_one_name(name: str, bundle: Path) -> None:
    list_file(bundle, name)
    with pytest.raises(BundleError) as caught:
        Bundle(bundle)
    assert str(caught.value).startswith(str(bundle / MANIFEST))
    assert str(caught.value).isprintable()


def test_names_that_this_program_writes_are_names(exported: Path, bundle: Path) -> None:
    list_file(bundle, "note", b"x")
    (bundle / "engines/tensorrt-10.3.0.post1+cu12-sm80+-fp32").mkdir(parents=True)
    list_file(bundle, "engines/tensorrt-10.3.0.post1+cu12-sm80+-fp32/goodness.engine", b"y")
    assert Bundle(bundle).read("note") == b"x"
    assert Bundle(exported).manifest.files


# --- links, pipes and devices


def test_nothing_outside_a_bundle_is_written_or_deleted(bundle: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.txt").write_text("mine")
    (outside / ".mine.new").write_text("mine")
    (bundle / "d").symlink_to(outside)
    before, manifest = everything_in(outside), Bundle(bundle).manifest
    with pytest.raises(StorageError, match="is a link"):
        write_bundle(bundle, manifest, {"d/mine.txt": b"theirs"})
    list_file(bundle, "d/mine.txt", b"mine")
    with pytest.raises(StorageError, match="is a link"):
        write_bundle(bundle, Bundle(bundle).manifest, {"note": b"x"})
    write_bundle(bundle, manifest, {"note": b"x"})  # which no longer lists it
    assert everything_in(outside) == before
    Bundle(bundle).weights()


def test_links_become_files_when_a_bundle_is_written(bundle: Path, tmp_path: Path) -> None:
    """As model hubs and mounted volumes have them: graphs and weights must lie in one folder."""
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(bundle.iterdir())):
        if file.is_file():
            file.rename(blobs / str(number))
            file.symlink_to(blobs / str(number))
    before = everything_in(blobs)
    scores = Model(bundle, state=False).scores(Bundle(bundle).some_images()[:1])
    written = write_bundle(bundle, Bundle(bundle).manifest, {"note": b"x"})
    assert not any(file.is_symlink() for file in bundle.iterdir())
    assert everything_in(blobs) == before
    assert (Model(written, state=False).scores(written.some_images()[:1]) == scores).all()


def test_a_link_to_a_file_that_was_changed_is_found(bundle: Path, tmp_path: Path) -> None:
    (bundle / WEIGHTS).rename(tmp_path / "w")
    (bundle / WEIGHTS).symlink_to(tmp_path / "w")
    manifest = Bundle(bundle).manifest
    (tmp_path / "w").write_bytes(bytes((tmp_path / "w").stat().st_size))
    with pytest.raises(BundleError, match="damaged"):
        write_bundle(bundle, manifest, {"note": b"x"})


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.posix
def test_what_is_no_regular_file_is_neither_read_nor_replaced(kind: str, bundle: Path) -> None:
    file = bundle / "extra"
    {"pipe": os.mkfifo, "device": lambda at: at.symlink_to("/dev/zero"), "folder": Path.mkdir}[kind](file)
    said = "Is a directory" if kind == "folder" else "no regular file"
    with pytest.raises(OSError, match=said):
        read_regular(file, NO_LIMIT)
    with pytest.raises(StorageError, match=said):
        write_atomically(file, b"x")
    with pytest.raises(DataError, match=said):
        read_idx(file)
    manifest = Bundle(bundle).manifest
    with pytest.raises(BundleError, match=said):
        read_state(file, manifest)
    list_file(bundle, "extra")
    with pytest.raises(BundleError, match="no regular file"):
        Bundle(bundle)


def test_no_more_is_read_than_promised(bundle: Path) -> None:
    opened = Bundle(bundle)
    with (bundle / WEIGHTS).open("ab") as file:
        file.truncate(1 << 40)  # takes no space
    for read in (opened.weights, lambda: Bundle(bundle)):
        with pytest.raises(BundleError, match=r"weights\.safetensors"):
            read()


def test_no_link_is_followed_in_writing(tmp_path: Path) -> None:
    target, outside = tmp_path / "picture.png", tmp_path / "outside"
    outside.write_bytes(b"mine")
    target.symlink_to(outside)
    (tmp_path / ".picture.png.new").symlink_to(outside)
    write_atomically(target, b"picture")
    assert outside.read_bytes() == b"mine"
    assert target.read_bytes() == b"picture"
    assert not target.is_symlink()


# --- two writers


def test_one_writer_at_a_time(bundle: Path, tmp_path: Path) -> None:
    for place in (bundle, tmp_path / "new" / "model.ff"):
        refused: list[Exception] = []

        def other(place: Path = place, refused: list[Exception] = refused) -> None:
            try:
                with writing(place):
                    pass
            except FFError as said:
                refused.append(said)

        with writing(place):
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        (error,) = refused
        assert "another process is writing it" in str(error)
        other()
        assert len(refused) == 1
        assert not list(place.parent.rglob("*.lock"))


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"), writing(tmp_path / "file" / "model.ff"):
        pass


# --- files that are whole, and of something else


def rewrite(bundle: Path, name: str, change: Callable[[dict[str, np.ndarray]], object]) -> Bundle:
    """Change tensors of a file in place; its hash fits."""
    tensors = dict(Bundle(bundle).tensors(name))
    change(tensors)
    return write_bundle(bundle, Bundle(bundle).manifest, {name: save(tensors)})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_give_no_answer(value: float, bundle: Path) -> None:
    written = rewrite(bundle, WEIGHTS, lambda tensors: tensors["unit1.conv1.weight"].fill(value))
    with pytest.raises(BundleError, match=r"weights\.safetensors: 'unit1\.conv1\.weight' holds values that are no"):
        written.weights()
    with pytest.raises(BundleError, match="no finite numbers, so there is no answer"):
        Model(written, state=False).classify_batch(written.some_images()[:1])


GOLDEN_HARM: dict[str, Callable[[dict[str, np.ndarray]], object]] = {
    "infinite": lambda t: t["total"].fill(np.inf),
    "not a number": lambda t: t["goodness"].fill(np.nan),
    "a gradient of another shape": lambda t: t.update({"gradient.unit1.conv1.bias": np.zeros(3, np.float32)}),
    "a gradient of nothing": lambda t: t.update({"gradient.x": np.zeros(3, np.float32)}),
    "integers": lambda t: t.update(total=t["total"].astype(np.int64)),
    "images in floats": lambda t: t.update(images=t["images"].astype(np.float32)),
    "labels in floats": lambda t: t.update(labels=t["labels"].astype(np.float32)),
    "a label of no class": lambda t: t["labels"].fill(99),
    "a negative label": lambda t: t["negatives"].fill(-1),
    "no images": lambda t: t.update(images=t["images"][:0]),
}


@pytest.mark.parametrize("harm", GOLDEN_HARM)
def test_golden_vectors_of_something_else_prove_nothing(harm: str, bundle: Path) -> None:
    written = rewrite(bundle, GOLDEN, GOLDEN_HARM[harm])
    with pytest.raises(BundleError, match=r"golden\.safetensors: '"):
        check(Model(written, state=False))


def test_exemplars_of_no_part_are_refused(bundle: Path) -> None:
    written = rewrite(bundle, EXEMPLARS, lambda tensors: tensors["part"].fill(9))
    with pytest.raises(BundleError, match="a part that there is not"):
        written.exemplars()
