"""MNIST's own files, their split, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from mnist_writer import idx, numbered

from ffruntime.core.errors import DataError
from ffruntime.demo.digits import load, showing, some


def test_what_is_measured_on_is_the_test_images(tmp_path: Path) -> None:
    training, tested = load(numbered(tmp_path), "test")
    assert (len(training), len(tested)) == (20, 30)
    assert (tested.pixels.shape, tested.pixels[:, 0, 5, 5].max()) == ((30, 1, 28, 28), 1)


def test_some_are_always_the_same_and_all_where_there_are_no_more(tmp_path: Path) -> None:
    _, tested = load(numbered(tmp_path), "test")
    assert np.array_equal(some(tested, 7).pixels, some(tested, 7).pixels)
    assert (len(some(tested, 7)), len(some(tested, 100))) == (7, 30)
    assert set(showing(tested, 3, 5).labels.tolist()) == {3, 5}


def test_files_may_be_packed(tmp_path: Path) -> None:
    for file in (numbered(tmp_path) / "MNIST" / "raw").iterdir():
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes(), 1))
        file.unlink()
    assert len(load(tmp_path, "test")[0]) == 20


def test_what_is_missing_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"MNIST/raw: not there; .*--data .*\$FF_DATA.*'fftrain mnist'"):
        load(tmp_path, "test")
    numbered(tmp_path)
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte: not there"):
        load(tmp_path, "test")


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("t10k-images-idx3", np.zeros((30, 28, 27), np.uint8)),
        ("t10k-images-idx3", np.zeros((29, 28, 28), np.uint8)),
        ("t10k-images-idx3", np.zeros(30, np.uint8)),
        ("t10k-labels-idx1", np.zeros((30, 1), np.uint8)),
        ("t10k-labels-idx1", np.full(30, 10, np.uint8)),
        ("train-labels-idx1", np.zeros(5, np.uint8)),
    ],
)
def test_what_is_not_mnist_is_refused(tmp_path: Path, part: str, content: np.ndarray) -> None:
    (numbered(tmp_path) / "MNIST" / "raw" / f"{part}-ubyte").write_bytes(idx(content))
    with pytest.raises(DataError, match=r"not MNIST's|no digit"):
        load(tmp_path, "test")
