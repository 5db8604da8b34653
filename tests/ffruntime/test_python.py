"""What a program can do with a model: give it a picture in any form, copy it, fork."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapes import SHAPE

from ffruntime import Model
from ffruntime.backend import require_no_gpu
from ffruntime.core.errors import BackendError, BundleError, FFError, ImageError, UsageError

FORMS: dict[str, Callable[[Path], object]] = {
    "path": lambda file: file,
    "text": str,
    "image of Pillow": Image.open,
    "bytes": Path.read_bytes,
    "bytearray": lambda file: bytearray(file.read_bytes()),
    "file in memory": lambda file: io.BytesIO(file.read_bytes()),
}


@pytest.fixture(scope="module")
def model(exported: Path) -> Model:
    return Model(exported, state=False)


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_in_any_form(form: str, model: Model, picture_files: list[Path]) -> None:
    assert model.classify(FORMS[form](picture_files[0])).scores == model.classify(picture_files[0]).scores


def test_an_image_of_pillow_is_turned_as_its_file_would_be(model: Model, picture_files: list[Path]) -> None:
    turned, exif = io.BytesIO(), Image.Exif()
    exif[0x112] = 6
    Image.open(picture_files[0]).transpose(Image.Transpose.ROTATE_90).save(turned, "PNG", exif=exif)
    assert model.classify(Image.open(turned)).scores == model.classify(picture_files[0]).scores


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ([1, 2], UsageError),
        (None, UsageError),
        (3, UsageError),
        (np.zeros((16, 16, 1), np.uint8), UsageError),
        (np.zeros((1, 16, 16)), UsageError),
        ("a\0b.png", ImageError),
        (b"", ImageError),
        (b"no picture", ImageError),
    ],
    ids=range(8),
)
def test_what_is_no_picture_is_one_line(source: object, error: type[FFError], model: Model) -> None:
    with pytest.raises(error) as caught:
        model.classify(source)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_what_is_no_bundle_is_one_line(model: Model) -> None:
    with pytest.raises(BundleError, match="null byte"):
        Model("a\0b.ff")
    with pytest.raises(UsageError, match="must be the path"):
        Model(None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="must be an array of numpy"):
        model.classify_batch([np.zeros(SHAPE, np.uint8)])  # type: ignore[arg-type]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_answers_the_same(copied: Callable[[Model], Model], model: Model, images: np.ndarray) -> None:
    np.testing.assert_array_equal(copied(model).scores(images), model.scores(images))


FORKING = """
import os, sys, numpy as np
from ffruntime import Model
model = Model(sys.argv[1], state=False)
image = np.zeros((1, 1, 16, 16), np.uint8)
before = model.scores(image)
for _ in range(3):  # it does not hang every time
    child = os.fork()
    if not child:
        if sys.argv[2] == "use":
            assert (model.scores(image) == before).all()
        if sys.argv[2] == "delete":
            del model
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert (model.scores(image) == before).all()
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["use", "delete", "end"])
@pytest.mark.posix
def test_a_forked_process_uses_a_model_and_ends(what: str, exported: Path) -> None:
    """With as many threads as there are cores, which do not follow."""
    subprocess.run([sys.executable, "-c", FORKING, str(exported), what], check=True, timeout=60)


def answer(model: Model, image: np.ndarray, end: Connection) -> None:
    end.send(model.scores(image))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(method: str, model: Model, images: np.ndarray) -> None:
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    before = model.scores(images[:1])
    process = context.Process(target=answer, args=(model, images[:1], theirs))
    process.start()
    assert ours.poll(60)
    np.testing.assert_array_equal(ours.recv(), before)
    process.join(60)
    assert process.exitcode == 0


def test_a_gpu_does_not_follow_a_fork() -> None:
    with pytest.raises(BackendError, match="cannot follow a fork"):
        require_no_gpu("onnxruntime-cuda")
