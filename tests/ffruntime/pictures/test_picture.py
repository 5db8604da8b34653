"""Any picture comes out as the training data's own image of it; every unusable file is one clear line.

The pictures of digits are made from real MNIST images, so the right answer is known: that image. `difference` is
measured in grey levels of 255, as a mean over the image. For scale: two MNIST images of the same digit differ by
33, of two digits by 40, and an image from itself moved by one pixel (which `difference` allows) by 16.
"""

from __future__ import annotations

import contextlib
import io
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from digits import read_digits
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from ffruntime.core.data import data_directory, read_idx
from ffruntime.core.errors import DataError, ImageError
from ffruntime.core.manifest import Digit, Garment, Photo
from ffruntime.demo import digits as digits_files
from ffruntime.pictures import picture
from ffruntime.pictures.picture import prepare, read_picture, take_as_is

SHAPE = (1, 28, 28)
MNIST = Digit(box=20)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


@pytest.fixture(scope="session")
def digits() -> np.ndarray:
    """The first validation image of each digit, uint8 (10, 28, 28)."""
    images, labels = read_digits()
    return images[[labels.tolist().index(digit) for digit in range(10)]]


def enlarge(digit: np.ndarray, scale: float = 10, smooth: bool = False) -> np.ndarray:
    """A digit `scale` times as large, off the centre of a larger field: how much ink is where, (H, W) in [0, 1]."""
    side = round(28 * scale)
    method = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    figure = np.asarray(Image.fromarray(digit.astype(np.float32) / 255).resize((side, side), method)).clip(0, 1)
    return np.pad(figure, ((side // 8, side // 3), (side // 2, side // 5)))


def paint(ink: np.ndarray, colour: tuple[int, ...] = BLACK, paper: tuple[int, ...] = WHITE) -> np.ndarray:
    """Ink of one colour on paper of another: (H, W) in [0, 1] -> float (H, W, C) in 0..255."""
    return ink[..., None] * np.subtract(colour, paper) + paper


def to_image(pixels: np.ndarray) -> Image.Image:
    """float in 0..255 -> a picture of mode L, LA, RGB or RGBA."""
    return Image.fromarray(np.rint(pixels.clip(0, 255)).astype(np.uint8))


def difference(image: np.ndarray, digit: np.ndarray) -> float:
    """Mean absolute difference; a centre of mass between two pixels may have been rounded the other way."""
    shifted = (np.roll(image[0].astype(int), (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1))
    return min(float(np.abs(other - digit).mean()) for other in shifted)


def classify_ready(path: Path) -> np.ndarray:
    """What `ffruntime classify` shows to the network; of the right form, whatever the picture is."""
    image = prepare(read_picture(str(path)), str(path), MNIST, SHAPE)
    assert image.shape == SHAPE
    assert image.dtype == np.uint8
    assert image.max() == 255
    return image


# MNIST's own images ------------------------------------------------------------------------------


def test_an_mnist_image_comes_out_as_itself(tmp_path: Path) -> None:
    """300 of MNIST's validation images, of which a hundred are always at hand."""
    images = read_digits()[0]
    if (data_directory(None) / "MNIST" / "raw").is_dir():
        whole = digits_files.load(data_directory(None), "validation")[1].pixels[:300, 0]
        np.testing.assert_array_equal(whole[:100], images)
        images = whole
    differences = []
    for digit in images:
        Image.fromarray(digit).save(tmp_path / "digit.png")
        differences.append(np.abs(classify_ready(tmp_path / "digit.png")[0].astype(int) - digit).mean())
    assert np.mean(np.array(differences) == 0) > 0.8
    assert np.mean(np.array(differences) < 0.3) > 0.99


def test_a_negative_comes_out_as_itself(digits: np.ndarray) -> None:
    for digit in digits:
        negative = prepare(Image.fromarray(255 - digit), "negative", MNIST, SHAPE)
        np.testing.assert_array_equal(negative, prepare(Image.fromarray(digit), "digit", MNIST, SHAPE))


def test_a_tight_crop_comes_close(digits: np.ndarray) -> None:
    """Ink along most of an edge, such as the bar of a 7, is not taken for background."""
    for digit in digits:
        inked = Image.fromarray(digit).crop(Image.fromarray(digit).getbbox())
        assert difference(prepare(inked, "crop", MNIST, SHAPE), digit) < 8


# Every kind of file ------------------------------------------------------------------------------


def _alpha(ink: np.ndarray, colour: tuple[int, ...]) -> Image.Image:
    """Ink where the picture is opaque; the colour is the same everywhere."""
    return to_image(np.dstack([np.broadcast_to(colour, (*ink.shape, 3)), ink * 255]))


def _palette_with_transparency(ink: np.ndarray) -> Image.Image:
    image = to_image(ink * 255).convert("P")
    image.info["transparency"] = bytes(range(256))
    image.putpalette([0, 120, 0] * 256)
    return image


KINDS: dict[str, Callable[[np.ndarray], Image.Image]] = {
    "dark on light.png": lambda ink: to_image(255 * (1 - ink)),
    "light on dark.png": lambda ink: to_image(255 * ink),
    "faint.png": lambda ink: to_image(200 - 20 * ink),
    "red on yellow.png": lambda ink: to_image(paint(ink, (200, 30, 40), (250, 240, 120))),
    "same luminance.png": lambda ink: to_image(paint(ink, (200, 60, 60), (60, 131, 60))),
    "palette.png": lambda ink: to_image(paint(ink, (20, 40, 200), (240, 230, 220))).quantize(64),
    "palette with transparency.png": _palette_with_transparency,
    "palette.gif": lambda ink: to_image(paint(ink, (20, 40, 200), (240, 230, 220))).quantize(64),
    "1 bit, dark on light.png": lambda ink: Image.fromarray(ink < 0.5),
    "1 bit, light on dark.tiff": lambda ink: Image.fromarray(ink >= 0.5),
    "grey and alpha.png": lambda ink: to_image(np.dstack([255 * (1 - ink), np.full_like(ink, 255)])),
    "black in grey's alpha.png": lambda ink: to_image(np.dstack([np.zeros_like(ink), 255 * ink])),
    "opaque RGBA.png": lambda ink: to_image(paint(ink, (0, 90, 0, 255), (255, 255, 220, 255))),
    "black in alpha.png": lambda ink: _alpha(ink, BLACK),
    "white in alpha.png": lambda ink: _alpha(ink, WHITE),
    "paper in alpha.png": lambda ink: _alpha(1 - ink, WHITE),
    "16 bits.png": lambda ink: Image.fromarray(np.rint(65535 * (1 - ink)).astype(np.uint16)),
    "16 bits.tiff": lambda ink: Image.fromarray(np.rint(65535 * ink).astype(np.uint16)),
    "12 bits in 16.png": lambda ink: Image.fromarray(np.rint(4095 * (1 - ink)).astype(np.uint16)),
    "12 bits in 16.tiff": lambda ink: Image.fromarray(np.rint(300 + 3000 * ink).astype(np.uint16)),
    "32 bits.tiff": lambda ink: Image.fromarray(np.rint(100_000 * ink - 50_000).astype(np.int32)),
    "float 0 to 1.tiff": lambda ink: Image.fromarray(1 - ink),
    "float, any range.tiff": lambda ink: Image.fromarray(1e-3 * ink - 7),
    "cmyk.tiff": lambda ink: to_image(paint(ink, (200, 30, 40), (250, 240, 120))).convert("CMYK"),
    "cmyk.jpg": lambda ink: to_image(paint(ink, (200, 30, 40), (250, 240, 120))).convert("CMYK"),
    "grey.jpg": lambda ink: to_image(255 * (1 - ink)),
    "colour.jpg": lambda ink: to_image(paint(ink, (200, 30, 40), (250, 240, 120))),
    "colour.webp": lambda ink: to_image(paint(ink, (200, 30, 40), (250, 240, 120))),
    "colour.bmp": lambda ink: to_image(paint(ink, (200, 30, 40), (250, 240, 120))),
    "colour.ppm": lambda ink: to_image(paint(ink, (200, 30, 40), (250, 240, 120))),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file(kind: str, digits: np.ndarray, tmp_path: Path) -> None:
    differences = []
    for digit in digits:
        KINDS[kind](enlarge(digit, 6)).save(tmp_path / kind)
        differences.append(difference(classify_ready(tmp_path / kind), digit))
    assert np.mean(differences) < (6 if kind.startswith("1 bit") else 4)


def test_colours_hidden_by_transparency_do_not_count(digits: np.ndarray) -> None:
    ink = enlarge(digits[3])
    pixels = np.asarray(_alpha(ink, BLACK)).copy()
    pixels[..., :3][ink == 0] = np.random.default_rng(0).integers(0, 256, ((ink == 0).sum(), 3))
    assert difference(prepare(Image.fromarray(pixels), "hidden", MNIST, SHAPE), digits[3]) < 5


STORED = {  # what a camera in that position stores of an upright picture
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_exif_orientation(orientation: int, suffix: str, digits: np.ndarray, tmp_path: Path) -> None:
    stored, method = to_image(255 * (1 - enlarge(digits[7]))), STORED[orientation]
    if method is not None:
        stored = stored.transpose(method)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"photo.{suffix}", exif=exif)
    assert difference(classify_ready(tmp_path / f"photo.{suffix}"), digits[7]) < 5


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_large_photo(suffix: str, digits: np.ndarray, tmp_path: Path) -> None:
    to_image(255 * enlarge(digits[4], 60)).save(tmp_path / f"photo.{suffix}", quality=80)
    assert difference(classify_ready(tmp_path / f"photo.{suffix}"), digits[4]) < 6


def test_standard_input(digits: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.fromarray(digits[5]).save(file, "PNG")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(file.getvalue())))
    assert difference(prepare(read_picture("-"), "-", MNIST, SHAPE), digits[5]) < 0.3


# Any scale, position, colours, noise, shading ----------------------------------------------------


def _across(ink: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of its pixels, -1 to 1: down and right."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in ink.shape), indexing="ij")
    return y, x


def _noisy(pixels: np.ndarray, deviation: float) -> np.ndarray:
    return pixels + deviation * np.random.default_rng(0).standard_normal(pixels.shape)


def _with_specks(pixels: np.ndarray, count: int, side: int) -> np.ndarray:
    for y, x in np.random.default_rng(0).integers(0, min(pixels.shape) - side, (count, 2)):
        pixels[y : y + side, x : x + side] = 0
    return pixels


SPOILT: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # ink (H, W) in [0, 1] -> grey levels
    "smooth": lambda ink: 255 * (1 - ink),
    "noise": lambda ink: _noisy(220 - 180 * ink, 15),
    "faint and noisy": lambda ink: _noisy(150 - 15 * ink, 1),
    "light from one side": lambda ink: (160 - 110 * ink) * (1 + 0.3 * _across(ink)[1]),
    "dark corners": lambda ink: 240 * (1 - 0.8 * ink) * (1 - 0.2 * np.square(_across(ink)).sum(axis=0)),
    "shadow": lambda ink: 230 * (1 - 0.8 * ink) * (1 - 0.15 * (_across(ink)[1] < 0)),
    "dust": lambda ink: _with_specks(255 * (1 - ink), 6, 3),
    "salt": lambda ink: _with_specks(255 * (1 - ink), 500, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_picture_comes_close(kind: str, digits: np.ndarray) -> None:
    images = [prepare(to_image(SPOILT[kind](enlarge(d, 9.3, smooth=True))), kind, MNIST, SHAPE) for d in digits]
    assert np.mean([difference(image, digit) for image, digit in zip(images, digits, strict=True)]) < 8


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.5, 2.3, 4, 8, 16, 40])
def test_every_scale_comes_close(scale: float, digits: np.ndarray) -> None:
    images = [prepare(to_image(255 * enlarge(d, scale, smooth=True)), "large", MNIST, SHAPE) for d in digits]
    assert np.mean([difference(image, digit) for image, digit in zip(images, digits, strict=True)]) < 8


COLOURS = st.tuples(*[st.integers(0, 255)] * 3)
UP_TO_ONE = st.floats(0, 1)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    which=st.integers(0, 9),
    scale=st.floats(2, 12),
    room=st.tuples(st.floats(0, 2), UP_TO_ONE, UP_TO_ONE),
    colours=st.tuples(COLOURS, COLOURS),
    noise=st.floats(0, 0.04),
    shading=st.tuples(st.floats(0, 0.1), st.floats(0, 2 * np.pi)),
    seed=st.integers(0, 999),
)
def test_any_drawing(digits, which, scale, room, colours, noise, shading, seed) -> None:  # type: ignore[no-untyped-def]
    """`noise` (standard deviation) and `shading` (from end to end) are relative to the contrast of the colours.

    With more of both, some light figures on dark are taken for their surroundings: from a fifth of the contrast on,
    with noise of 0.04, one digit of ten."""
    contrast = np.abs(np.subtract(*colours)).max()
    luminance = abs(float(np.subtract(*colours) @ (0.299, 0.587, 0.114)))  # ITU-R BT.601; 60 of blue are 7 of it
    assume(contrast >= 60 and luminance >= 0.3 * contrast)
    figure = enlarge(digits[which], scale, smooth=True)
    extra = [round(room[0] * 28 * scale * part) for part in (room[1], 1 - room[1], room[2], 1 - room[2])]
    figure = np.pad(figure, (extra[:2], extra[2:]))
    slope = [
        np.linspace(-0.5, 0.5, side) * f(shading[1]) for side, f in zip(figure.shape, (np.sin, np.cos), strict=True)
    ]
    pixels = paint(figure, *colours) + contrast * shading[0] * np.add.outer(*slope)[..., None]
    pixels += contrast * noise * np.random.default_rng(seed).standard_normal(pixels.shape)
    image = prepare(to_image(pixels), "drawing", MNIST, SHAPE)
    assert image.shape == SHAPE
    assert image.dtype == np.uint8
    assert difference(image, digits[which]) < 20


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    mode=st.sampled_from(
        ["1", "L", "P", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"]
    ),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    data=st.randoms(use_true_random=False),
)
def test_anything_is_an_image_or_refused(mode: str, size: tuple[int, int], data: random.Random) -> None:
    length = len(Image.new(mode, size).tobytes())
    anything = Image.frombytes(mode, size, data.randbytes(length))
    with contextlib.suppress(ImageError):
        image = prepare(anything, "anything", MNIST, SHAPE)
        assert (image.shape, image.dtype, image.max()) == (SHAPE, np.uint8, 255)


@pytest.mark.parametrize("paper", [BLACK, WHITE, (180, 160, 140)])
def test_an_empty_page_is_refused(paper: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=r"^page\.png: no figure"):
        prepare(Image.new("RGB", (300, 200), paper), "page.png", MNIST, SHAPE)


@pytest.mark.parametrize("noise", [0, 1, 4, 12])
@pytest.mark.parametrize("shading", [0, 60])
@pytest.mark.parametrize("side", [28, 900])
def test_noise_and_shading_are_no_figure(side: int, shading: float, noise: float) -> None:
    page = 150 + np.linspace(-shading / 2, shading / 2, side)[:, None]
    page = page + noise * np.random.default_rng(0).standard_normal((side, side))
    with pytest.raises(ImageError, match=r"^page\.png: no figure"):
        prepare(to_image(page), "page.png", MNIST, SHAPE)


# Files that cannot be used -----------------------------------------------------------------------


def _encoded(image: Image.Image, form: str) -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def _half(form: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    data = _encoded(Image.fromarray(noise), form)
    return data[: len(data) // 2]


def _bomb(side: int) -> bytes:
    """A valid PNG of `side` x `side` white pixels of one bit, a thousandth of that in bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    packer = zlib.compressobj()
    row = b"\0" + b"\xff" * ((side + 7) // 8)
    body = b"".join(packer.compress(row * 100) for _ in range(side // 100)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "text.png": (lambda: b"This is a text, not a picture.\n", "not an image"),
    "empty.png": (lambda: b"", "empty file"),
    "truncated.png": (lambda: _half("PNG"), "damaged"),
    "truncated.jpg": (lambda: _half("JPEG"), "damaged"),
    "signature only.png": (lambda: _half("PNG")[:8], "not an image"),
    "program.eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
    "one pixel.png": (lambda: _encoded(Image.new("L", (1, 1), 255), "PNG"), "no figure"),
    "blank.png": (lambda: _encoded(Image.new("RGB", (100, 80), WHITE), "PNG"), "no figure"),
    "transparent.png": (lambda: _encoded(Image.new("RGBA", (100, 80)), "PNG"), "no figure"),
    "blank, 16 bits.png": (lambda: _encoded(Image.new("I;16", (100, 80), 700), "PNG"), "no figure"),
    "nan.tiff": (lambda: _encoded(Image.new("F", (9, 9), float("nan")), "TIFF"), "not numbers"),
    "wide.png": (lambda: _encoded(Image.new("1", (20_000, 10)), "PNG"), "16384 pixels a side"),
    "many pixels.png": (lambda: _encoded(Image.new("1", (9_000, 8_000)), "PNG"), "64 megapixels"),
    "bomb.png": (lambda: _bomb(30_000), "64 megapixels"),
}


def refuse(path: Path, reason: str) -> None:
    """Assert that `path` is refused for that reason, in one line that names it."""
    with pytest.raises(ImageError) as caught:
        classify_ready(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert reason in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused(name: str, tmp_path: Path) -> None:
    make, reason = BAD[name]
    (tmp_path / name).write_bytes(make())
    refuse(tmp_path / name, reason)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    refuse(tmp_path / "missing.png", "No such file")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    refuse(tmp_path, "cannot be read")


def test_a_huge_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "MAX_BYTES", 1 << 20)
    (tmp_path / "film.mp4").write_bytes(bytes((1 << 20) + 1))
    refuse(tmp_path / "film.mp4", "more than 1 MiB")


@pytest.mark.parametrize("cut", range(0, 100, 7))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "GIF", "BMP", "PPM", "WEBP"])
def test_a_file_cut_anywhere_is_an_image_or_refused(
    form: str, cut: int, digits: np.ndarray, tmp_path: Path
) -> None:
    data = _encoded(Image.fromarray(digits[8]), form)
    (tmp_path / "cut").write_bytes(data[: len(data) * cut // 100])
    with contextlib.suppress(ImageError):
        classify_ready(tmp_path / "cut")


PEAK = """
import sys
from pathlib import Path
from ffruntime.core.errors import ImageError
from ffruntime.core.manifest import Digit, Garment, Photo
from ffruntime.pictures.picture import prepare, read_picture

def peak():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024

for ordinary in sys.argv[2:]:
    prepare(read_picture(ordinary), ordinary, KIND, (1, 28, 28))
before = peak()
try:
    prepare(read_picture(sys.argv[1]), sys.argv[1], KIND, (1, 28, 28))
except ImageError:
    pass
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux' /proc")
@pytest.mark.parametrize(("side", "limit"), [(30_000, 10), (7_900, 100)])
@pytest.mark.parametrize("kind", ["Digit(20)", "Garment()", "Photo()"])
def test_peak_memory(kind: str, side: int, limit: int, tmp_path: Path) -> None:
    """MiB: of a bomb hardly more than its file, of the largest picture that is read little more than its pixels."""
    (tmp_path / "large.png").write_bytes(_bomb(side))
    code = PEAK.replace("KIND", kind)
    command = [sys.executable, "-c", code, str(tmp_path / "large.png")]
    grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(grown) < limit


TURNED = Image.Exif()
TURNED[0x0112] = 6
LARGE: dict[str, dict] = {  # options of Pillow's
    "grey.png": {},
    "colour.png": {},
    "turned.png": {"exif": TURNED},
    "read small.jpg": {},
    "progressive.jpg": {"progressive": True, "subsampling": 0},
    "colour.webp": {"lossless": True},
    "one strip.tiff": {"compression": "tiff_adobe_deflate", "tiffinfo": {278: 3000}},
    "colour.bmp": {},
}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux' /proc")
@pytest.mark.parametrize("name", LARGE)
def test_a_picture_takes_no_more_than_its_refusal_says(name: str, digits: np.ndarray, tmp_path: Path) -> None:
    """MiB beyond an ordinary picture, beside what a process grows by that reads it."""
    path = str(tmp_path / name)
    stored = to_image(255 * (1 - enlarge(digits[2]))).resize((3000, 3000))
    stored.convert("L" if name.startswith("grey") else "RGB").save(path, **LARGE[name])
    memory_limit = max(0, (tmp_path / name).stat().st_size - picture.ORDINARY)  # for the file, and nothing else
    with pytest.raises(ImageError, match=r"and the memory allowed leaves .* make it smaller, or allow") as caught:
        read_picture(path, memory_limit)
    message = str(caught.value)
    assert message.startswith(f"{path}: takes ")
    takes = int(message.removeprefix(f"{path}: takes ").split()[0])
    ordinary = Path(__file__).parents[3] / "examples" / "three.png"
    command = [sys.executable, "-c", PEAK.replace("KIND", "Digit(20)"), path, str(ordinary)]
    grown = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 0.4 * takes < grown <= takes
    assert min(read_picture(path, memory_limit=takes << 20).size) >= 1000


def test_an_ordinary_picture_is_read_without_a_limit_above_it_and_a_large_file_is_not(
    digits: np.ndarray, tmp_path: Path
) -> None:
    path = str(tmp_path / "digit.png")
    to_image(255 * (1 - enlarge(digits[2], 5))).save(path)
    assert difference(prepare(read_picture(path, memory_limit=0), path, MNIST, SHAPE), digits[2]) < 5
    (tmp_path / "film.mp4").write_bytes(bytes(11 << 20))
    with pytest.raises(ImageError, match="takes at least 2 MiB more than an ordinary picture"):
        read_picture(str(tmp_path / "film.mp4"), memory_limit=1 << 20)


# Garments: as Fashion-MNIST was made ------------------------------------------------------------


@pytest.fixture(scope="session")
def garments() -> np.ndarray:
    """The first images of Fashion-MNIST: uint8 (40, 28, 28)."""
    try:
        return read_idx(data_directory(None) / "FashionMNIST" / "raw" / "train-images-idx3-ubyte")[:40]
    except DataError:
        pytest.skip("FF_DATA does not point at Fashion-MNIST")


def prepare_garment(image: Image.Image) -> np.ndarray:
    prepared = prepare(image, "garment", Garment(), SHAPE)
    assert (prepared.shape, prepared.dtype) == (SHAPE, np.uint8)
    return prepared


@pytest.mark.parametrize("negative", [False, True])
def test_a_garment_comes_out_as_itself(negative: bool, garments: np.ndarray) -> None:
    """On black or on white; but for those that cover most of the border, which then is no background."""
    pictures = [Image.fromarray(255 - garment if negative else garment) for garment in garments]
    same = [difference(prepare_garment(p), g) < 1 for p, g in zip(pictures, garments, strict=True)]
    assert np.mean(same) > 0.65


GARMENTS: dict[str, Callable[[np.ndarray], Image.Image]] = {
    "product photo": lambda ink: to_image(255 * (1 - ink)),
    "cut out": lambda ink: _alpha(ink, BLACK),
    "noise": lambda ink: to_image(_noisy(235 * (1 - ink), 3)),
    "shading": lambda ink: to_image(_noisy(255 * (1 - ink), 2) * (0.85 + 0.1 * _across(ink)[0])),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", GARMENTS)
def test_a_garment_from_any_place_in_a_larger_picture_comes_close(kind: str, garments: np.ndarray) -> None:
    """For scale: two images of Fashion-MNIST differ by 71."""
    pictures = [GARMENTS[kind](enlarge(garment, 6, smooth=True)) for garment in garments]
    differences = [difference(prepare_garment(p), g) for p, g in zip(pictures, garments, strict=True)]
    assert np.mean(differences) < 16


def test_a_pale_garment_stays_pale() -> None:
    """Intensity says what a garment is like; only a digit is stretched to full scale."""
    pale = Image.new("L", (60, 90), 255)
    pale.paste(225, (10, 15, 40, 75))
    prepared = prepare_garment(pale)[0]
    assert prepared.max() == 30
    rows, columns = np.nonzero(prepared)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 27, 7, 20)  # 30 × 60 pixels, centred


def test_a_white_garment_cut_out_is_one() -> None:
    """On white paper there would be nothing of it."""
    cut_out = Image.new("RGBA", (60, 90), (255, 255, 255, 0))
    cut_out.paste((255, 255, 255, 255), (10, 15, 40, 75))
    dark = Image.new("L", (60, 90), 0)
    dark.paste(255, (10, 15, 40, 75))
    np.testing.assert_array_equal(prepare_garment(cut_out), prepare_garment(dark))


# Photos: the picture's middle, in its colours ----------------------------------------------------


def test_a_photo_of_the_right_size_is_unchanged() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    taken = prepare(Image.fromarray(pixels), "photo", Photo(), (3, 32, 32))
    np.testing.assert_array_equal(taken, pixels.transpose(2, 0, 1))
    grey = prepare(Image.fromarray(pixels[..., 0]), "photo", Photo(), (1, 32, 32))
    np.testing.assert_array_equal(grey, pixels[None, ..., 0])


@pytest.mark.parametrize("size", [(300, 100), (100, 300), (9_000, 120)])
def test_a_photo_is_cut_to_its_middle(size: tuple[int, int]) -> None:
    """However long it is: the middle is taken before the picture is made smaller."""
    width, height = size
    side = min(size)
    image = Image.new("RGB", size, (255, 0, 0))
    quarters = np.kron(np.eye(2), np.full((side // 2, side // 2), 255))
    image.paste(to_image(quarters), ((width - side) // 2, (height - side) // 2))
    taken = prepare(image, "photo", Photo(), (3, 8, 8))
    assert np.abs(taken[:, ::7, ::7] - 255 * np.eye(2)).max() < 5  # the four corners


def test_what_is_transparent_is_white() -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, 4:] = (10, 200, 30, 255)
    taken = prepare(Image.fromarray(pixels), "photo", Photo(), (3, 8, 8))
    assert (taken[:, :, :4] == 255).all()
    assert (taken[:, :, 4:] == np.array([10, 200, 30])[:, None, None]).all()


@settings(max_examples=80, derandomize=True)
@given(
    mode=st.sampled_from(["1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16"]),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    shape=st.tuples(st.sampled_from([1, 3]), st.integers(1, 40), st.integers(1, 40)),
    data=st.randoms(use_true_random=False),
)
def test_any_picture_is_a_photo(
    mode: str, size: tuple[int, int], shape: tuple[int, int, int], data: random.Random
) -> None:
    anything = Image.frombytes(mode, size, data.randbytes(len(Image.new(mode, size).tobytes())))
    taken = prepare(anything, "anything", Photo(), shape)
    assert (taken.shape, taken.dtype) == (shape, np.uint8)
    if shape[0] == 1:  # the same picture in colour, made grey
        colour = Image.fromarray(prepare(anything, "anything", Photo(), (3, *shape[1:])).transpose(1, 2, 0))
        np.testing.assert_array_equal(taken[0], np.asarray(colour.convert("L")))


def test_a_photo_of_numbers_that_are_none_is_refused() -> None:
    with pytest.raises(ImageError, match=r"^photo\.tiff: pixels that are not numbers"):
        prepare(Image.new("F", (9, 9), float("nan")), "photo.tiff", Photo(), SHAPE)


# --no-preprocess: a picture that is ready --------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "gif"])
def test_8_bits_pass_unchanged(suffix: str, digits: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / f"ready.{suffix}"
    Image.fromarray(digits[2]).save(path)
    taken = take_as_is(read_picture(str(path)), str(path), SHAPE)
    assert taken.dtype == np.uint8
    np.testing.assert_array_equal(taken, digits[2][None])


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bits_pass_unchanged(suffix: str, digits: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / f"ready.{suffix}"
    Image.fromarray(digits[2].astype(np.uint16) * 257).save(path)
    taken = take_as_is(read_picture(str(path)), str(path), SHAPE)
    assert taken.dtype == np.uint8
    np.testing.assert_array_equal(taken, digits[2][None])


def test_three_channels_pass_unchanged(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "ready.png")
    taken = take_as_is(read_picture(str(tmp_path / "ready.png")), "ready.png", (3, 32, 32))
    np.testing.assert_array_equal(taken, pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(27, 28), (28, 29), (280, 280), (1, 1)])
def test_another_size_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=r"^ready\.png: --no-preprocess takes 28 × 28 pixels"):
        take_as_is(Image.new("L", size), "ready.png", SHAPE)


def test_float_pixels_are_refused() -> None:
    """Nothing says what their full scale is."""
    with pytest.raises(ImageError, match="8 or 16 bits"):
        take_as_is(Image.new("F", (28, 28)), "ready.tiff", SHAPE)
