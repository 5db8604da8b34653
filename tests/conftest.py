"""What all tests share: real MNIST images, and one small network trained, packed and exported once.

Nothing of the workstation is imported before a fixture needs it: tests of `ffruntime` run where torch is not
installed.

`FF_TEST_SEED=1 pytest` trains that network from another seed, `FF_TEST_PRECISION=bf16` in another precision: what
the tests ask of it must not depend on that.
"""

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
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock
from hypothesis import settings
from msgspec import structs
from PIL import Image

from ffruntime.core.data import data_directory

if TYPE_CHECKING:
    from fftrain.dataset import Dataset
    from fftrain.recipe import Recipe
    from fftrain.run import Run

settings.register_profile("ffedge", deadline=None)  # no test asserts a time
settings.load_profile("ffedge")

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # as in a shell's background job: what tests start inherits it
    signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = Path(__file__).parent / "tiny.toml"
SEED = int(os.environ.get("FF_TEST_SEED", "0"))
PRECISION = os.environ.get("FF_TEST_PRECISION", "fp32")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Where pytest-xdist is installed, tests run side by side, in as many processes as there are cores; `-n 0`
    runs them in this one."""
    of_one_process = "PYTEST_XDIST_WORKER" in os.environ or not config.pluginmanager.hasplugin("xdist")
    if not of_one_process and config.option.numprocesses is None:
        config.option.numprocesses, config.option.dist = "auto", "worksteal"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """On Windows, what only POSIX has is not tested."""
    if os.name == "nt" and item.get_closest_marker("posix"):
        pytest.skip("needs signals, forks, pipes, terminals or permissions as POSIX has them")


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Folders that are made once in a run of the tests, by whichever process asks for one first."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    root.mkdir(exist_ok=True)

    def make_once(name: str, make: Callable[[Path], object]) -> Path:
        place, unfinished = root / name, root / f"{name}.unfinished"
        with FileLock(root / f"{name}.lock"):
            if not place.exists():
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                make(unfinished)
                unfinished.rename(place)
        return place

    return make_once


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    """Real MNIST from `$FF_DATA`; without it, the offline sample of real MNIST."""
    from fftrain.dataset import load_dataset

    return load_dataset("mnist", data_directory(None))


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    """The recipe of the network that tests train."""
    from fftrain.recipe import load_recipe

    return load_recipe(str(TINY))


@pytest.fixture(scope="session")
def trained_run(tiny_recipe: Recipe, dataset: Dataset, once: Callable) -> Run:
    """A tiny FF-CNN after three epochs of 3,200 real images: a few seconds, some 88 % right."""
    import torch

    from fftrain import run as training

    few = type(dataset.train)(dataset.train.pixels[:3200], dataset.train.labels[:3200])
    smaller = structs.replace(dataset, train=few)

    def run(folder: Path, resume: bool) -> Run:
        dtype = torch.bfloat16 if PRECISION == "bf16" else torch.float32
        begun = training.start(tiny_recipe, smaller, SEED, torch.device("cpu"), dtype)
        for _ in training.train(begun, folder / "model.ff", resume=resume, stop=lambda: False):
            pass
        return begun

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "GLANCE", 200)  # validation images after an epoch, most of the time otherwise
        checkpoint = once("trained", lambda folder: run(folder, resume=False))
    return run(checkpoint, resume=True)  # which is at the end


@pytest.fixture(scope="session")
def exported(trained_run: Run, once: Callable) -> Path:
    """That network as a bundle with graphs. Shared: read it, or copy it with the fixture `bundle`."""
    import torch

    from ffexport.export import export_onnx
    from fftrain.evaluation import accuracy
    from fftrain.pack import pack_run

    def export(folder: Path) -> None:
        validation = trained_run.dataset.validation
        part = type(validation)(validation.pixels[:200], validation.labels[:200])
        measured = accuracy(trained_run.network, trained_run.tensors, part, 10, torch.float32)
        pack_run(folder / "model.ff", trained_run, "tiny", "cpu", "fp32", {"validation": measured})
        export_onnx(folder / "model.ff")

    return once("exported", export) / "model.ff"


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
        if os.name == "nt" or os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
            pytest.skip("mounting a small file system needs root")
        return disk

    yield mount
    if disk.is_mount():
        subprocess.run(["umount", str(disk)], check=True)
