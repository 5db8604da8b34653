"""What tests of the demonstration share: MNIST's files with few images, and tiny untrained bundles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mnist_writer import write_mnist

from ffexport.export import export_onnx
from ffruntime.core.data import SPLIT, data_directory
from fftrain.dataset import Dataset, load_dataset
from fftrain.pack import completed, pack_run
from fftrain.recipe import load_recipe
from fftrain.run import start

TESTS = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def data(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST's four files: 800 real images beside those for validation, and 400 to test with."""
    pixels, labels = (tensor.numpy().astype(np.uint8) for tensor in (dataset.train.pixels, dataset.train.labels))
    places = np.arange(SPLIT.validation + 800) % 3000
    return write_mnist(
        tmp_path_factory.mktemp("data"),
        train_images=pixels[places, 0],
        train_labels=labels[places],
        t10k_images=pixels[3000:3400, 0],
        t10k_labels=labels[3000:3400],
    )


def _untrained(path: Path, classes: str | None, recipe_name: str = "tiny", counted: bool = False) -> Path:
    recipe = load_recipe(str(TESTS / f"{recipe_name}.toml"), [("schedule.epochs", 0)])
    digits = load_dataset("mnist", data_directory(None), classes)
    bundle = pack_run(
        path, start(recipe, digits, 0, torch.device("cpu"), torch.float32), recipe_name, "cpu", "fp32", {}
    )
    if counted:
        completed(bundle, digits)
    export_onnx(path)
    return path


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that knows the names of all ten digits, and nothing else."""
    return _untrained(tmp_path_factory.mktemp("untrained") / "untrained.ff", None)


@pytest.fixture(scope="session")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that has never heard of 9."""
    return _untrained(tmp_path_factory.mktemp("nine") / "nine.ff", "0-8")


@pytest.fixture(scope="session")
def untrained_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With class goodness, one that knows the names of all ten digits."""
    return _untrained(tmp_path_factory.mktemp("untrained") / "classes.ff", None, "classes")


@pytest.fixture(scope="session")
def counted_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With class goodness and class statistics, one that knows the names of all ten digits."""
    return _untrained(tmp_path_factory.mktemp("counted") / "counted.ff", None, "classes", counted=True)


@pytest.fixture(scope="session")
def nine_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With class goodness and class statistics, one that has never heard of 9."""
    return _untrained(tmp_path_factory.mktemp("nine") / "classes.ff", "0-8", "classes", counted=True)
