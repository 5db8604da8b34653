"""Accuracy-differential saliency: hiding pixels of images, and counting what that costs."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from pictures import CLASSES
from PIL import Image

from ffruntime.commands.explain import explain
from ffruntime.core.errors import BackendError, DataError, ImageError
from ffruntime.model import Model
from ffruntime.saliency import BATCH, Saliency, occlude, occluded_copies, picture, steps


@given(st.integers(1, 9), st.integers(0, 5), st.integers(0, 1))
def test_copies_are_zero_under_the_window_and_nowhere_else(window: int, row: int, odd: int) -> None:
    images = np.random.default_rng(0).integers(1, 256, (2, 3, 6, 7 + odd), dtype=np.uint8)
    copies = occluded_copies(images, window, row)
    assert copies.shape == (7 + odd, *images.shape)
    for column, copy in enumerate(copies):
        rows, columns = np.indices(images.shape[2:])
        low, high = -((window - 1) // 2), window // 2
        under = (low <= rows - row) & (rows - row <= high) & (low <= columns - column) & (columns - column <= high)
        assert (copy[..., under] == 0).all()
        assert (copy[..., ~under] == images[..., ~under]).all()


def brightest_of_two(images: np.ndarray) -> np.ndarray:
    """A network that looks at two pixels: class 0 where (1, 1) is the brighter one, class 1 where (3, 4) is."""
    return np.stack([images[:, 0, 1, 1], images[:, 0, 3, 4]], axis=1).astype(float)


@pytest.mark.parametrize("count", [10, BATCH + 7])
def test_what_answers_rest_on_is_found(count: int) -> None:
    """Hidden, the pixel of a class costs it all its answers, that of the other class none."""
    labels = np.arange(count) % 2
    images = np.full((count, 1, 5, 6), 9, np.uint8)
    images[labels == 0, 0, 1, 1] = images[labels == 1, 0, 3, 4] = 200
    rows = iter(range(1000))
    found = occlude(brightest_of_two, images, labels, 3, 1, lambda: next(rows))
    assert next(rows) == steps(images)
    assert found.images.tolist() == found.plain.tolist() == [count - count // 2, count // 2, 0]
    expected = np.zeros((3, 5, 6))
    expected[0, 1, 1] = expected[1, 3, 4] = -1
    assert (found.by_class == expected).all()
    shares = found.images / count
    assert np.allclose(found.overall, np.tensordot(shares, expected, 1))


def test_a_larger_window_hides_what_is_near() -> None:
    images = np.full((1, 1, 5, 6), 9, np.uint8)
    images[0, 0, 1, 1] = 200
    found = occlude(brightest_of_two, images, np.array([0]), 2, 3)
    assert (found.overall == -1).sum() == 9
    assert (found.overall[:3, :3] == -1).all()


def test_black_pixels_are_not_asked_about() -> None:
    """What hiding does not change, the network is not shown again."""
    images = np.zeros((4, 1, 8, 8), np.uint8)
    images[:, :, 4, 4] = 255
    shown = 0

    def predict(x: np.ndarray) -> np.ndarray:
        nonlocal shown
        shown += len(x)
        return np.tile([1.0, 0.0], (len(x), 1))

    occlude(predict, images, np.array([0, 1, 0, 1]), 2, 3)
    assert shown == 4 + 4 * 9


def test_it_is_what_counting_one_by_one_finds(exported: Path) -> None:
    model, rng = Model(exported, state=False), np.random.default_rng(1)
    exemplars = model.bundle.exemplars().take(slice(6))
    images, labels = exemplars.pixels, exemplars.labels
    found = occlude(lambda x: model.scores(x, "classifier"), images, labels, 6, 5)
    for row, column in rng.integers(0, 16, (5, 2)):
        hidden = images.copy()
        hidden[:, :, max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] = 0
        right = [(model.scores(x, "classifier").argmax(1) == labels).mean(dtype=float) for x in (hidden, images)]
        assert found.overall[row, column] == pytest.approx(right[0] - right[1])


def test_the_picture_is_orange_where_accuracy_is_lost() -> None:
    saliency = np.zeros((28, 28))
    saliency[:5, :5], saliency[20:, 20:] = -0.5, 0.2
    file = picture({"all": Saliency(np.zeros((1, 28, 28)), 1.0, saliency)})
    pixels = np.asarray(Image.open(io.BytesIO(file))).astype(int)[24:-26, 10:-10]
    red, blue = pixels[..., 0], pixels[..., 2]
    orange, purple = np.argwhere(red > blue + 50), np.argwhere(blue > red + 20)
    assert orange.max() < purple.min()
    assert len(orange) == 25 * 25  # each pixel is 5 × 5


def run_explain(*arguments: object) -> Result:
    return CliRunner().invoke(explain, [*map(str, arguments)], catch_exceptions=False)


def test_over_the_exemplars(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "saliency.png"
    done = run_explain("--model", exported, "--images", 20, "--mode", "classifier", "--out", out, "--json")
    result = json.loads(done.stdout)
    assert (result["images"], result["window"], result["mode"]) == (20, 5, "classifier")
    assert set(result["saliency"]) == {"all", *CLASSES}
    saliency = np.array(result["saliency"]["all"]["map"])
    assert saliency.shape == (16, 16)
    assert saliency.min() < 0
    assert (saliency[0] == 0).all()  # nothing is in the corners
    assert Image.open(out).format == "PNG"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_a_limit_is_kept(exported: Path, tmp_path: Path) -> None:
    words = ["--model", exported, "--images", "30", "--mode", "classifier", "--out", tmp_path / "s.png", "--json"]
    with pytest.raises(BackendError, match="allow") as caught:
        run_explain(*words, "--memory", "5")
    enough = int(str(caught.value).rsplit("allow ", 1)[1].split()[0])
    code = "import sys; from ffruntime import cli, measure\ncli.cli.main(sys.argv[1:], standalone_mode=False)\n"
    command = [sys.executable, "-c", code + "print(measure.peak_mib())", "explain", *map(str, words)]
    done = subprocess.run([*command, "--memory", str(enough)], capture_output=True, text=True, check=True)
    assert float(done.stdout.splitlines()[-1]) <= enough


def test_over_a_folder_of_pictures(exported: Path, picture_files: list[Path], tmp_path: Path) -> None:
    for file in picture_files[:6]:
        folder = tmp_path / "pictures" / file.stem.partition("-")[2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file.name).write_bytes(file.read_bytes())
    words = ("--model", exported, "--window", 9, "--mode", "classifier", "--no-preprocess")
    done = run_explain(tmp_path / "pictures", *words, "--out", tmp_path / "s.png")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("all: ")
    assert "without 9 × 9 pixels" in lines[0]
    assert len(lines) == 2 + len({file.stem.partition("-")[2] for file in picture_files[:6]})
    with pytest.raises(DataError, match="no pictures in folders named like classes"):
        run_explain(tmp_path, *words)
    (folder / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"broken\.png"):
        run_explain(tmp_path / "pictures", *words)
