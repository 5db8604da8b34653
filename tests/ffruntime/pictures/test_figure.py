"""The figure is found in photographs as people take them; several, none, and what cannot be told are said so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import in_process_text
from digits import read_digits
from PIL import Image, ImageFilter
from scenes import HEIGHT, READ, SCENES, WIDTH, photograph, sheet, stroke, written

from ffruntime.core.data import data_directory
from ffruntime.core.errors import ImageError
from ffruntime.core.manifest import Digit, Garment, Photo
from ffruntime.core.shipped import MODEL
from ffruntime.demo import digits as digits_files
from ffruntime.model import Model
from ffruntime.pictures.picture import decode_picture, prepare, prepare_all
from ffruntime.session import Session

SHAPE, MNIST = (1, 28, 28), Digit(20)
SEEDS = (3, 10, 17)  # images that the model that comes with ffruntime reads, as they are


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(MODEL, state=False, session=Session(threads=1))


def page(*strokes: np.ndarray) -> Image.Image:
    """Ink on plain paper."""
    pixels = written(sheet(np.random.default_rng(0)), np.max(strokes, axis=0))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.7))


def difference(image: np.ndarray, digit: np.ndarray) -> float:
    """Mean absolute difference, of 255; a centre of mass between two pixels may have been rounded the other way."""
    shifted = (np.roll(image[0].astype(int), (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1))
    return min(float(np.abs(other - digit).mean()) for other in shifted)


@pytest.mark.parametrize("scene", READ)
def test_a_digit_in_a_photograph_is_read_and_sure(scene: str, model: Model) -> None:
    images, labels = read_digits()
    for seed in SEEDS:
        (answer,) = model.classify_batch(model.prepare(photograph(scene, seed, images[seed]), scene)[None])
        assert answer.label == str(labels[seed])
        assert answer.sure


def test_the_box_of_a_figure_is_in_the_pixels_of_the_upright_file(tmp_path: Path) -> None:
    digit = read_digits()[0][3]
    ink = stroke(digit, 200, (300, 150))
    (found,) = prepare_all(page(ink), "page", MNIST, SHAPE)
    rows, columns = (np.flatnonzero((ink > 0.5).any(axis)) for axis in (1, 0))
    expected = np.array([columns[0], rows[0], columns[-1], rows[-1]])
    assert np.abs(np.array(found.box) - expected).max() <= 4
    large = (
        page(ink).resize((8 * WIDTH, 8 * HEIGHT)).rotate(90, expand=True)
    )  # so large that a JPEG is read smaller
    exif = Image.Exif()
    exif[0x0112] = 6
    large.save(tmp_path / "large.jpg", exif=exif)
    (found,) = prepare_all(decode_picture((tmp_path / "large.jpg").read_bytes(), "large"), "large", MNIST, SHAPE)
    assert np.abs(np.array(found.box) - 8 * expected).max() <= 40


def test_several_figures_are_said_with_their_places_and_each_can_be_had() -> None:
    images = read_digits()[0]
    two = page(stroke(images[3], 180, (220, 150)), stroke(images[5], 150, (230, 430)))
    with pytest.raises(
        ImageError, match=r"^two: several figures, at \(left, top, right, bottom\) \(.*\), \(.*\); "
    ):
        prepare(two, "two", MNIST, SHAPE)
    left, right = prepare_all(two, "two", MNIST, SHAPE)
    assert left.box is not None
    assert right.box is not None
    assert left.box[2] < 300 < right.box[0]
    assert max(difference(left.image, images[3]), difference(right.image, images[5])) < 12


def test_parts_of_one_figure_are_one() -> None:
    """A bar that does not quite reach its 5 or 4, and a broken stroke."""
    ink = np.zeros((HEIGHT, WIDTH))
    ink[100:118, 250:340] = ink[128:220, 240:258] = ink[200:218, 240:330] = ink[228:290, 320:338] = 1
    assert len(prepare_all(page(ink), "parts", MNIST, SHAPE)) == 1


@pytest.mark.parametrize("gap", [30, 60])
def test_two_tall_strokes_side_by_side_are_two(gap: int) -> None:
    ink = np.zeros((HEIGHT, WIDTH))
    ink[100:330, 250:270] = ink[100:330, 270 + gap : 290 + gap] = 1
    assert len(prepare_all(page(ink), "eleven", MNIST, SHAPE)) == 2


def test_dust_is_no_figure_and_writing_without_end_is_no_answer() -> None:
    digit, specks = stroke(read_digits()[0][3], 200, (220, 300)), np.zeros((HEIGHT, WIDTH))
    for y, x in np.random.default_rng(0).integers(0, (HEIGHT - 5, WIDTH - 5), (40, 2)):
        specks[y : y + 5, x : x + 5] = 1
    assert len(prepare_all(page(np.maximum(digit, specks)), "dust", MNIST, SHAPE)) == 1
    text = np.zeros((HEIGHT, WIDTH))
    for y in range(30, HEIGHT - 40, 60):
        for x in range(30, WIDTH - 40, 50):
            text[y : y + 35, x : x + 8] = 1
    with pytest.raises(ImageError, match=r"^text: cannot tell a figure from the background"):
        prepare(page(text), "text", MNIST, SHAPE)


def test_what_is_cut_by_the_border_is_said() -> None:
    pixels = written(sheet(np.random.default_rng(0)), stroke(read_digits()[0][3], 200, (430, 300)))
    light = np.linspace(1.0, 0.6, WIDTH)[:, None]
    with pytest.raises(ImageError, match=r"^cut: what looks like a figure is cut by the border"):
        prepare(Image.fromarray((pixels * light).astype(np.uint8)), "cut", MNIST, SHAPE)


@pytest.mark.parametrize("scene", sorted(SCENES.keys() - READ.keys()))
def test_what_is_not_one_digit_is_refused(scene: str) -> None:
    for seed in range(3):
        with pytest.raises(ImageError):
            prepare(photograph(scene, seed, read_digits()[0][seed]), scene, MNIST, SHAPE)


PLAIN = {  # an image of MNIST, uint8 (28, 28), drawn plainly
    "as it is": lambda digit: digit,
    "dark on light": lambda digit: 255 - digit,
    "large": lambda digit: np.kron(255 - digit, np.ones((8, 8), np.uint8)),
    "small": lambda digit: 255 - np.pad(digit, ((15, 180), (250, 30))),
    "colour": lambda digit: np.stack([255 - digit // 4, 240 - digit // 2 - digit // 4, 200 - digit // 2], axis=-1),
    "alpha": lambda digit: np.stack([0 * digit, 0 * digit, 0 * digit, digit], axis=-1),
    "white by alpha": lambda digit: (
        np.stack([255 | digit, 255 | digit, 255 | digit, digit], axis=-1).repeat(3, 0).repeat(3, 1)
    ),
    "16 bits": lambda digit: np.kron(65535 - 257 * digit.astype(np.uint16), np.ones((4, 4), np.uint16)),
}


def answers(model: Model, kind: str, images: np.ndarray) -> list[str]:
    prepared = [model.prepare(Image.fromarray(PLAIN[kind](digit)), kind) for digit in images]
    return [answer.label for answer in model.classify_batch(np.stack(prepared))]


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLAIN)
def test_digits_drawn_plainly_are_answered_as_they_are(kind: str, model: Model) -> None:
    images = read_digits()[0][:40]
    expected = [answer.label for answer in model.classify_batch(images[:, None])]
    assert answers(model, kind, images) == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLAIN)
def test_a_thousand_digits_drawn_plainly(kind: str, model: Model) -> None:
    """None fewer is right than of the images as the network takes them."""
    if not (data_directory(None) / "MNIST" / "raw").is_dir():
        pytest.skip("FF_DATA does not point at MNIST")
    examples = digits_files.load(data_directory(None), "validation")[1]
    images, labels = examples.pixels[:1000, 0], examples.labels[:1000].astype(str)
    ready = np.array([answer.label for answer in model.classify_batch(images[:, None])])
    assert (np.array(answers(model, kind, images)) == labels).sum() >= (ready == labels).sum()


def test_the_command_answers_every_figure_with_its_box(tmp_path: Path) -> None:
    images = read_digits()[0]
    page(stroke(images[3], 180, (220, 150)), stroke(images[5], 180, (230, 430))).save(tmp_path / "two.png")
    page(stroke(images[3], 180, (220, 150))).save(tmp_path / "one.png")

    def run(*options: str) -> tuple[int, list[str], str]:
        done = in_process_text("ffruntime", "classify", "--shipped", "two.png", "one.png", *options, cwd=tmp_path)
        return done.returncode, done.stdout.splitlines(), done.stderr

    code, lines, errors = run("--json")
    assert (code, len(lines)) == (4, 1)
    assert "error: two.png: several figures" in errors
    assert "crop to one, or --figures all answers each" in errors
    code, lines, errors = run("--json", "--figures", "all")
    found = [json.loads(line) for line in lines]
    assert code == 0
    assert [one["path"] for one in found] == ["two.png", "two.png", "one.png"]
    assert found[0]["box"][2] < found[1]["box"][0]
    assert run("--figures", "all")[1][1].startswith("two.png, figure 2: ")
    assert sum("▀" in line for line in run("--show")[1]) == 2 * 23 + 3 * 14  # both pictures, and all digits


def test_a_garment_that_is_cut_and_a_photo_of_one_colour_have_a_doubt() -> None:
    whole = Image.new("L", (90, 90), 255)
    whole.paste(90, (20, 15, 70, 75))
    cut = Image.new("L", (90, 90), 255)
    cut.paste(90, (20, 40, 70, 90))
    assert [prepare_all(one, "coat", Garment(), SHAPE)[0].doubts == () for one in (whole, cut)] == [True, False]
    grey = Image.effect_noise((80, 80), 2)
    assert [prepare_all(one, "sky", Photo(), SHAPE)[0].doubts == () for one in (whole, grey)] == [True, False]


def test_ink_is_not_that_of_the_table() -> None:
    """A photograph of paper on a table: nothing of the table is drawn into the digit's field."""
    digit = read_digits()[0][3]
    assert difference(prepare(photograph("by the edge of a table", 3, digit), "table", MNIST, SHAPE), digit) < 14
