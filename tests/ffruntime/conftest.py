"""What tests of the device share: a small committed bundle and drawn pictures, where torch is not installed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pictures import CLASSES
from PIL import Image
from shapes import BUNDLE, CLASS_BUNDLE, drawn


@pytest.fixture(scope="session")
def exported(once: Callable) -> Path:
    """The committed bundle, in a folder of its own. Shared: read it, or copy it with the fixture `bundle`."""
    return once("shapes", lambda folder: shutil.copytree(BUNDLE, folder / "model.ff")) / "model.ff"


@pytest.fixture(scope="session")
def class_bundle(once: Callable) -> Path:
    """The committed bundle with class goodness, likewise."""
    return once("classes", lambda folder: shutil.copytree(CLASS_BUNDLE, folder / "classes.ff")) / "classes.ff"


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """Sixty drawn pictures that the network was not trained on: uint8 (60, 1, 16, 16)."""
    return drawn(60)[0]


@pytest.fixture(scope="session")
def picture_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twenty of them as PNG files, named by position and class: `03-dots.png`."""
    folder, files = tmp_path_factory.mktemp("pictures"), []
    for index, (image, label) in enumerate(zip(*drawn(20), strict=True)):
        files.append(folder / f"{index:02}-{CLASSES[label]}.png")
        Image.fromarray(image[0]).save(files[-1])
    return files
