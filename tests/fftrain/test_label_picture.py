"""`fftrain labels`: the picture of labels."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ffruntime.core.errors import FFError, ImageError, StorageError, UsageError
from fftrain.commands.show import labels
from fftrain.drawing import ImageRow, image_rows_png

THREE = Path(__file__).parents[2] / "examples" / "three.png"  # read sooner than the sample's digits


def draw(*arguments: object) -> str:
    """What the command prints; raises the error that it ends with."""
    return CliRunner().invoke(labels, [*map(str, arguments)], catch_exceptions=False, standalone_mode=False).output


def test_the_picture_shows_every_cell_in_its_place() -> None:
    """Cells of one colour each are found in rows and columns, in the right order."""
    colours = np.arange(1, 7).reshape(2, 3) / 8  # rows × columns
    cells = [np.broadcast_to(row[:, None, None, None], (3, 10, 10, 3)) for row in colours]
    picture = Image.open(
        io.BytesIO(image_rows_png(["a", "b", "c"], [ImageRow(str(i), row) for i, row in enumerate(cells)]))
    )
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    centres = []
    for colour in (255 * colours).astype(int).flatten():
        places = np.argwhere((abs(pixels - colour) <= 1).all(-1))
        assert len(places) > 1000
        centres.append(places.mean(0))
    y, x = np.array(centres).reshape(2, 3, 2).transpose(2, 0, 1)
    assert np.ptp(y, axis=1).max() < 5 < np.diff(y, axis=0).min()
    assert np.ptp(x, axis=0).max() < 5 < np.diff(x, axis=1).min()


@pytest.mark.parametrize(
    ("recipe", "image", "rows"),
    [
        ("paper", (), ["pattern", "K = 0.35"]),
        ("cpu", ("--image", THREE), ["pattern", "input"]),
        ("cifar-morphology", ("--image", THREE), ["pattern", "K = 0.5"]),
        ("intff", ("--image", THREE), ["pattern", "input"]),
    ],
)
def test_every_kind_of_label_is_drawn(recipe: str, image: tuple, rows: list[str], tmp_path: Path) -> None:
    out = tmp_path / "labels.png"
    said = json.loads(draw("--recipe", recipe, *image, "--classes", 4, "--out", out, "--json"))
    assert said["rows"] == rows
    assert (said["classes"], said["spare"], said["picture"]) == (4, 2, str(out))
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert picture.width > 7 * 80  # four classes, two spare ones, the neutral label


def test_a_row_for_every_intensity(tmp_path: Path) -> None:
    draw("--image", THREE, "--out", tmp_path / "one.png")
    out = draw("--image", THREE, "--out", tmp_path / "three.png", "--intensity", "0.1,0.5,1").strip()
    assert out == str(tmp_path / "three.png")
    assert Image.open(out).height > 1.8 * Image.open(tmp_path / "one.png").height


def test_a_colour_picture_can_be_labelled(tmp_path: Path) -> None:
    """The picture's own colours are in the result: the neutral label leaves it as it is."""
    photo = np.zeros((40, 60, 3), np.uint8)
    photo[:, :30], photo[:, 30:] = (255, 0, 0), (0, 0, 255)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    arguments = ("--recipe", "cifar-morphology", "--image", tmp_path / "photo.png", "--size", 32)
    pixels = np.asarray(Image.open(draw(*arguments, "--out", tmp_path / "l.png").strip()).convert("RGB"))
    for colour in ((255, 0, 0), (0, 0, 255)):
        assert (pixels == colour).all(-1).sum() > 1000


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("--recipe", "papre"), UsageError, "did you mean 'paper'"),
        (("--image", THREE, "--classes", 200), UsageError, "144 waves"),
        (("--intensity", "0.5,2"), UsageError, "--intensity 0.5,2: expected numbers from 0 to 1"),
        (("--intensity", "much"), UsageError, "--intensity much"),
        (("--recipe", "cpu", "--intensity", "0.5"), UsageError, "random patterns have none"),
        (("--out", "labels.jpg"), UsageError, "ends in .png"),
        (("--image", "nothing.png"), ImageError, "nothing.png"),
        (
            ("--image", THREE, "--out", "/dev/null/labels.png"),
            StorageError,
            "/dev/null/labels.png: cannot be written",
        ),
    ],
)
@pytest.mark.posix
def test_what_cannot_be_drawn_is_one_line(
    arguments: tuple[object, ...],
    error: type[FFError],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as caught:
        draw(*arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_full_disk_leaves_no_half_a_picture(small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("16k")
    with pytest.raises(StorageError, match="No space left"):
        draw("--image", THREE, "--classes", 100, "--out", disk / "labels.png")
    assert list(disk.iterdir()) == []
