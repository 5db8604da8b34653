"""Data sets: those of torchvision, the offline sample, damaged files, and what a bundle was trained on."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ffruntime.core.bundle import Bundle
from ffruntime.core.data import SPLIT, Split, data_directory
from ffruntime.core.errors import DataError, UsageError
from ffruntime.core.manifest import Digit, Garment, Manifest, Photo
from fftrain.dataset import Dataset, load_dataset, load_for_manifest, load_set, read_jpeg_copy, read_set
from fftrain.epoch import shift_images
from fftrain.sets import SETS, choose_classes

DIRECTORY = Path(os.environ.get("FF_DATA", "/nowhere"))
DIGITS = tuple("0123456789")
needs_mnist = pytest.mark.skipif(not (DIRECTORY / "MNIST" / "raw").is_dir(), reason="FF_DATA has no MNIST")
needs_fashion = pytest.mark.skipif(not (DIRECTORY / "FashionMNIST").is_dir(), reason="FF_DATA has no Fashion-MNIST")


def sizes(dataset: Dataset) -> list[int]:
    return [len(split.labels) for split in (dataset.train, dataset.validation, dataset.test)]


@needs_mnist
def test_real_mnist_is_split_as_in_the_paper() -> None:
    dataset = load_dataset("mnist", DIRECTORY)
    assert sizes(dataset) == [50_000, 10_000, 10_000]
    assert dataset.train.pixels.dtype == torch.uint8
    assert not dataset.source.offline_sample
    assert dataset.preprocessing == Digit(box=20)
    union = torch.cat([dataset.train.pixels, dataset.validation.pixels]).flatten(1)
    original = torch.from_numpy(load_set(SETS["mnist"], DIRECTORY)[0].pixels).flatten(1)
    weights = torch.arange(784)
    assert torch.equal((union * weights).sum(1).sort()[0], (original * weights).sum(1).sort()[0])


@needs_mnist
def test_the_split_of_mnist_never_changes() -> None:
    """Bundles are compared on it: the first validation images, as they were in format 1."""
    validation = load_dataset("mnist", DIRECTORY).validation
    assert validation.labels[:12].tolist() == [3, 8, 7, 5, 3, 3, 8, 6, 0, 0, 0, 9]
    assert int(validation.pixels[:12].sum()) == 338_318


@needs_fashion
def test_fashion_mnist() -> None:
    dataset = load_dataset("fashion-mnist", DIRECTORY, "Bag,0")
    assert dataset.classes == ("T-shirt/top", "Bag")
    assert sum(sizes(dataset)[:2]) == 12_000
    assert sizes(dataset)[2] == 2_000
    assert dataset.preprocessing == Garment()
    assert dataset.source.name == "fashion-mnist"


def test_offline_sample_says_so_and_is_held_out_by_class(tmp_path: Path) -> None:
    dataset = load_dataset("mnist", tmp_path, offline=True)
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
    assert load_dataset("mnist", tmp_path).source.offline_sample


@pytest.mark.parametrize(
    ("name", "place"), [("fashion-mnist", "FashionMNIST/raw"), ("cifar100", "cifar-100-python")]
)
def test_without_a_network_there_is_no_other_sample(
    name: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that says what to put where."""
    monkeypatch.setattr("torchvision.datasets.FashionMNIST.mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setattr("torchvision.datasets.CIFAR100.url", "http://127.0.0.1:9/cifar-100-python.tar.gz")
    with pytest.raises(DataError, match=f"cannot be downloaded .*; put .* into {tmp_path / place}") as caught:
        load_dataset(name, tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="no offline sample"):
        load_dataset(name, tmp_path, offline=True)


@needs_mnist
@pytest.mark.parametrize("harm", ["truncated", "empty", "not idx"])
def test_damaged_mnist_is_refused_by_folder(harm: str, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    shutil.copytree(DIRECTORY / "MNIST" / "raw", raw)
    file = raw / "train-images-idx3-ubyte"
    file.chmod(0o644)
    whole = file.read_bytes()
    file.write_bytes({"truncated": whole[:1_000_000], "empty": b"", "not idx": b"GIF89a" + whole[6:]}[harm])
    with pytest.raises(DataError, match=f"{raw}: damaged; delete"):
        load_dataset("mnist", tmp_path)


def test_what_the_system_refuses_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many open files, or an error of the disk: there is no reason to delete what may be whole."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    for name, loader in (("mnist", "torchvision.datasets.MNIST"), ("cifar10", "torchvision.datasets.CIFAR10")):
        write_empty(tmp_path, name)
        monkeypatch.setattr(loader, refuse)
        with pytest.raises(
            DataError, match=f"{tmp_path / SETS[name].folder}: cannot be read: Too many open files$"
        ):
            read_set(SETS[name], tmp_path)


def write_empty(directory: Path, name: str) -> None:
    """Files of that data set, with nothing in them."""
    for file in SETS[name].files:
        place = directory / SETS[name].folder / file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()


# CIFAR -------------------------------------------------------------------------------------------


def write_cifar(directory: Path, name: str, count: int) -> np.ndarray:
    """Small files in the format of CIFAR's python version; returns the training images, (count, 3, 32, 32)."""
    wanted = SETS[name]
    (directory / wanted.folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (len(wanted.files) - 1, count, 3 * 32 * 32), dtype=np.uint8)
    classes = len(wanted.classes)
    for file, rows in zip(wanted.files, pixels, strict=False):
        labels = [index % classes for index in range(count)]
        batch = {"data": rows, "labels" if name == "cifar10" else "fine_labels": labels}
        (directory / wanted.folder / file).write_bytes(pickle.dumps(batch))
    key = "label_names" if name == "cifar10" else "fine_label_names"
    (directory / wanted.folder / wanted.files[-1]).write_bytes(pickle.dumps({key: list(wanted.classes)}))
    return np.concatenate(pixels[:-1]).reshape(-1, 3, 32, 32)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_files_of_cifar(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write_cifar(tmp_path, name, 120)
    place = f"{tmp_path / SETS[name].folder}: damaged; delete"
    with pytest.raises(DataError, match=place):  # their hashes are not CIFAR's
        load_dataset(name, tmp_path)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    with pytest.raises(DataError, match=f"{place}.*not 50,000 images"):
        load_dataset(name, tmp_path)
    training, testing = read_set(SETS[name], tmp_path)
    np.testing.assert_array_equal(training.pixels, written)
    assert training.labels.tolist()[:120] == [index % len(SETS[name].classes) for index in range(120)]
    assert testing.pixels.shape == (120, 3, 32, 32)


def test_names_of_the_classes_are_torchvisions() -> None:
    from torchvision.datasets import MNIST, FashionMNIST

    assert SETS["fashion-mnist"].classes == tuple(FashionMNIST.classes)
    assert len(MNIST.classes) == len(SETS["mnist"].classes)
    assert len(set(SETS["cifar100"].classes)) == 100
    assert SETS["cifar100"].classes == tuple(sorted(SETS["cifar100"].classes))


def test_the_table_says_how_many_images_are_for_validation() -> None:
    assert {wanted.counts[1] for wanted in SETS.values()} == {SPLIT.validation}


@pytest.mark.slow
def test_the_jpeg_copy_of_cifar10(tmp_path: Path, small_cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few hundred of its real pictures: read class by class, and said to be what they are."""
    (tmp_path / "cifar10-jpeg.zip").write_bytes(small_cifar.read_bytes())
    with pytest.raises(DataError, match=r"cifar10-jpeg\.zip: damaged: 300 pictures in train instead of 50,000"):
        load_dataset("cifar10", tmp_path)
    monkeypatch.setitem(SETS, "cifar10", msgspec.structs.replace(SETS["cifar10"], counts=(240, 60, 50)))
    monkeypatch.setattr("fftrain.dataset.SPLIT", Split(SPLIT.seed, 60))
    training, _ = read_jpeg_copy(tmp_path / "cifar10-jpeg.zip", SETS["cifar10"])
    assert training.pixels.shape == (300, 3, 32, 32)
    assert np.bincount(training.labels).tolist() == [30] * 10
    dataset = load_dataset("cifar10", tmp_path, "cat,dog,airplane")
    assert dataset.classes == ("airplane", "cat", "dog")
    assert sum(sizes(dataset)[:2]) == 90
    assert dataset.source.source.startswith("CIFAR-10 (JPEG copy), not comparable with CIFAR-10; validation: 60 of")
    assert dataset.preprocessing == Photo()
    (tmp_path / "cifar10-jpeg.zip").write_bytes(b"PK not really")
    with pytest.raises(DataError, match=r"cifar10-jpeg\.zip: neither a folder nor a \.zip that can be read"):
        load_dataset("cifar10", tmp_path)


# Classes -----------------------------------------------------------------------------------------


def test_classes_left_out_are_nowhere(tmp_path: Path) -> None:
    dataset = load_dataset("mnist", tmp_path, "1,7,9", offline=True)
    assert dataset.classes == ("1", "7", "9")
    assert torch.bincount(dataset.train.labels).tolist() == [400] * 3
    whole = load_dataset("mnist", tmp_path, offline=True)
    nines = whole.train.pixels[whole.train.labels == 9]
    assert torch.equal(dataset.train.pixels[dataset.train.labels == 2], nines)


PETS = ("cat", "dog", "guinea pig", "7", "Maulwürfe")


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("0-9", DIGITS, tuple(range(10))),
        ("0-8", DIGITS, tuple(range(9))),
        ("7,1", DIGITS, (1, 7)),
        ("1, 3-5", DIGITS, (1, 3, 4, 5)),
        ("dog,cat", PETS, (0, 1)),
        ("guinea pig, Maulwürfe", PETS, (2, 4)),
        ("0-1,7", PETS, (0, 1, 3)),  # a name, before it is an index
        (("7", "cat"), PETS, (3, 0)),  # names as a bundle has them, in its order
        (None, PETS, (0, 1, 2, 3, 4)),
    ],
)
def test_lists_of_classes(text: str | None, names: tuple[str, ...], expected: tuple[int, ...]) -> None:
    assert choose_classes(text, names) == expected


@pytest.mark.parametrize("text", ["", "3", "a-b", "0-10", "8-", "-3", "5-1", "1;2", "1,1", "²,3", "9" * 5000])
def test_wrong_lists_of_classes(text: str) -> None:
    with pytest.raises(UsageError, match="--classes"):
        choose_classes(text, DIGITS)


def test_a_class_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match="'guinea pigs': did you mean 'guinea pig'"):
        choose_classes("cat,guinea pigs", PETS)
    with pytest.raises(UsageError, match="did you mean 'mnist'"):
        load_dataset("minst", Path())


# What a bundle was trained on --------------------------------------------------------------------


def trained_on(exported: Path, **changes: object) -> Manifest:
    """The manifest of a bundle trained on MNIST, its data changed."""
    manifest = Bundle(exported).manifest
    source = msgspec.structs.replace(manifest.training.data, **changes)
    return msgspec.structs.replace(manifest, training=msgspec.structs.replace(manifest.training, data=source))


def test_the_data_of_a_bundle_are_loaded_again(exported: Path, dataset: Dataset) -> None:
    again = load_for_manifest(Bundle(exported).manifest)
    assert again.source == dataset.source
    assert torch.equal(again.validation.pixels, dataset.validation.pixels)
    assert torch.equal(again.test.labels, dataset.test.labels)


@needs_mnist
def test_the_split_that_a_bundle_records_is_the_one_that_is_made(exported: Path) -> None:
    other = Split(7, SPLIT.validation)
    again = load_for_manifest(trained_on(exported, split=other), str(DIRECTORY))
    whole = load_dataset("mnist", DIRECTORY)
    assert again.source.split == other
    assert not torch.equal(again.validation.pixels, whole.validation.pixels)


def test_other_data_than_those_of_the_bundle_are_refused(exported: Path, tmp_path: Path) -> None:
    """Such as the offline sample, where MNIST was and is no more."""
    mnist = trained_on(exported, offline_sample=True, source="MNIST (LeCun, Cortes); validation: …")
    with pytest.raises(DataError, match=r"trained on MNIST .*here is: offline sample"):
        load_for_manifest(mnist, str(tmp_path))


# -------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=6))
def test_shifting_moves_each_image_by_its_own_offset(dataset: Dataset, offsets: list[tuple[int, int]]) -> None:
    pixels = dataset.train.pixels[: len(offsets)]
    shifted = shift_images(pixels, torch.tensor(offsets))
    for image, moved, (dy, dx) in zip(pixels[:, 0], shifted[:, 0], offsets, strict=True):
        framed = torch.nn.functional.pad(image, (3, 3, 3, 3))
        assert torch.equal(moved, framed[3 - dy : 31 - dy, 3 - dx : 31 - dx])


def test_the_option_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FF_DATA", "/from/environment")
    assert data_directory("/from/option") == Path("/from/option")
    assert data_directory(None) == Path("/from/environment")
    monkeypatch.delenv("FF_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert data_directory(None) == Path("/cache/ffedge")
