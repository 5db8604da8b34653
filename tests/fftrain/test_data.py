"""Data sets: real MNIST, the offline sample, damaged files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ffruntime.errors import DataError, UsageError
from fftrain import data
from fftrain.augment import shift_images
from fftrain.data import Dataset, load_dataset, load_mnist, parse_classes

MNIST_RAW = Path(os.environ.get("FF_DATA", "/nowhere")) / "MNIST" / "raw"
needs_mnist = pytest.mark.skipif(not MNIST_RAW.is_dir(), reason="FF_DATA does not point at MNIST")


@needs_mnist
def test_real_mnist_is_split_as_in_the_paper() -> None:
    dataset = load_dataset(MNIST_RAW.parents[1])
    assert [len(s.labels) for s in (dataset.train, dataset.validation, dataset.test)] == [50_000, 10_000, 10_000]
    assert dataset.train.pixels.dtype == torch.uint8
    assert not dataset.source.offline_sample
    union = torch.cat([dataset.train.pixels, dataset.validation.pixels]).flatten(1)
    original = load_mnist(MNIST_RAW.parents[1])[0].pixels.flatten(1)
    weights = torch.arange(784)
    assert torch.equal((union * weights).sum(1).sort()[0], (original * weights).sum(1).sort()[0])


def test_offline_sample_says_so_and_is_held_out_by_class(tmp_path: Path) -> None:
    dataset = load_dataset(tmp_path, offline=True)
    assert dataset.source.offline_sample
    assert "offline sample" in dataset.source.source
    for split, per_class in zip((dataset.train, dataset.validation, dataset.test), (400, 50, 50), strict=True):
        assert torch.bincount(split.labels).tolist() == [per_class] * 10
    images = [
        {bytes(image.numpy()) for image in s.pixels} for s in (dataset.train, dataset.validation, dataset.test)
    ]
    assert not images[0] & images[1]
    assert not images[0] & images[2]


def test_without_a_network_the_offline_sample_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", ["http://127.0.0.1:9/"])  # nobody answers there
    assert load_dataset(tmp_path).source.offline_sample


@needs_mnist
@pytest.mark.parametrize("harm", ["truncated", "empty", "not idx"])
def test_damaged_mnist_is_refused_by_folder(harm: str, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    shutil.copytree(MNIST_RAW, raw)
    file = raw / "train-images-idx3-ubyte"
    file.chmod(0o644)
    whole = file.read_bytes()
    file.write_bytes({"truncated": whole[:1_000_000], "empty": b"", "not idx": b"GIF89a" + whole[6:]}[harm])
    with pytest.raises(DataError, match=f"{raw}.*damaged; delete"):
        load_dataset(tmp_path)


def test_classes_left_out_are_nowhere(tmp_path: Path) -> None:
    dataset = load_dataset(tmp_path, (1, 7, 9), offline=True)
    assert dataset.classes == ("1", "7", "9")
    assert torch.bincount(dataset.train.labels).tolist() == [400] * 3
    whole = load_dataset(tmp_path, offline=True)
    nines = whole.train.pixels[whole.train.labels == 9]
    assert torch.equal(dataset.train.pixels[dataset.train.labels == 2], nines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0-9", tuple(range(10))), ("0-8", tuple(range(9))), ("7,1", (1, 7)), ("1, 3-5", (1, 3, 4, 5))],
)
def test_lists_of_classes(text: str, expected: tuple[int, ...]) -> None:
    assert parse_classes(text) == expected


@pytest.mark.parametrize("text", ["", "3", "a-b", "0-10", "8-", "-3", "5-1", "1;2"])
def test_wrong_lists_of_classes(text: str) -> None:
    with pytest.raises(UsageError, match="--classes"):
        parse_classes(text)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=6))
def test_shifting_moves_each_image_by_its_own_offset(dataset: Dataset, offsets: list[tuple[int, int]]) -> None:
    pixels = dataset.train.pixels[: len(offsets)]
    shifted = shift_images(pixels, torch.tensor(offsets))
    for image, moved, (dy, dx) in zip(pixels[:, 0], shifted[:, 0], offsets, strict=True):
        framed = torch.nn.functional.pad(image, (3, 3, 3, 3))
        assert torch.equal(moved, framed[3 - dy : 31 - dy, 3 - dx : 31 - dx])


def test_the_option_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FF_DATA", "/from/environment")
    assert data.data_directory("/from/option") == Path("/from/option")
    assert data.data_directory(None) == Path("/from/environment")
    monkeypatch.delenv("FF_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert data.data_directory(None) == Path("/cache/ffedge")
