"""What all tests share: real MNIST images, and one small network trained, packed and exported once."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # tests run side by side, a core for each: before torch counts the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
import signal
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from msgspec import structs
from PIL import Image

from ffexport.export import export_onnx
from ffruntime.core.data import data_directory
from fftrain.dataset import Dataset, load_dataset
from fftrain.evaluation import accuracy
from fftrain.pack import pack_run
from fftrain.recipe import Recipe, load_recipe
from fftrain.run import Run, start, train

settings.register_profile("ffedge", deadline=None)  # no test asserts a time
settings.load_profile("ffedge")

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # as in a shell's background job: what tests start inherits it
    signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = Path(__file__).parent / "tiny.toml"


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    """Real MNIST from `$FF_DATA`; without it, the offline sample of real MNIST."""
    return load_dataset("mnist", data_directory(None))


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    """The recipe of the network that tests train."""
    return load_recipe(str(TINY))


@pytest.fixture(scope="session")
def trained_run(tiny_recipe: Recipe, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A tiny FF-CNN after three epochs of 3,200 real images: a few seconds, about 90 % right."""
    few = type(dataset.train)(dataset.train.pixels[:3200], dataset.train.labels[:3200])
    smaller = structs.replace(dataset, train=few)
    run = start(tiny_recipe, smaller, 0, torch.device("cpu"), torch.float32)
    for _ in train(run, tmp_path_factory.mktemp("run") / "model.ff", resume=False, stop=lambda: False):
        pass
    return run


@pytest.fixture(scope="session")
def exported(trained_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That network as a bundle with graphs. Shared: read it, or copy it with the fixture `bundle`."""
    path = tmp_path_factory.mktemp("exported") / "model.ff"
    part = type(trained_run.dataset.validation)(
        trained_run.dataset.validation.pixels[:200], trained_run.dataset.validation.labels[:200]
    )
    measured = accuracy(trained_run.network, trained_run.tensors, part, 10, torch.float32)
    pack_run(path, trained_run, "tiny", "cpu", "fp32", {"validation": measured})
    export_onnx(path)
    return path


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A bundle with graphs of one's own, to break."""
    return Path(shutil.copytree(exported, tmp_path / "model.ff"))


@pytest.fixture(scope="session")
def digit_files(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twenty real validation images as PNG files, named by position and digit: `03-7.png`."""
    folder = tmp_path_factory.mktemp("digits")
    files = []
    for index in range(20):
        digit = dataset.classes[int(dataset.validation.labels[index])]
        files.append(folder / f"{index:02}-{digit}.png")
        Image.fromarray(dataset.validation.pixels[index, 0].numpy()).save(files[-1])
    return files


@pytest.fixture(scope="session")
def small_cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real pictures of CIFAR-10's JPEG copy, in a .zip like it: of each class 30 to train on and 5 to test with."""
    whole = data_directory(None) / "cifar10-jpeg.zip"
    if not whole.exists():
        pytest.skip("FF_DATA has no cifar10-jpeg.zip")
    path = tmp_path_factory.mktemp("cifar") / whole.name
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            _, part, _, file = name.split("/")
            if int(file[:4]) < {"train": 30, "test": 5}[part]:
                target.writestr(name, source.read(name))
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a really limited file system of the size asked for, such as `512k` (root ignores permission bits)."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(size: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
            pytest.skip("mounting a small file system needs root")
        return disk

    yield mount
    if disk.is_mount():
        subprocess.run(["umount", str(disk)], check=True)
