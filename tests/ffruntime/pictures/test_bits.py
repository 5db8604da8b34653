"""Grey pictures of more than 8 bits: full scale is the format's, never what happens to be in the picture."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from ffruntime.core.errors import ImageError
from ffruntime.core.manifest import Garment, Photo, Preprocessing
from ffruntime.pictures.picture import decode_picture, prepare, upright

DIM = np.clip(50 * (0.6 + 0.4 * np.sin(np.mgrid[:24, :24][1] / 3)), 0, 255).astype(np.uint8)
SHAPE = (1, 24, 24)


def stored(pixels: np.ndarray, form: str) -> bytes:
    """The file of a grey picture."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def netpbm(kind: str, white: float, values: np.ndarray) -> bytes:
    return f"{kind}\n24 24\n{white}\n".encode() + values.tobytes()


def tiff(values: np.ndarray, white_is_zero: bool) -> bytes:
    """A TIFF of one strip (TIFF 6.0, section 4), of numbers as `values` are: with a sign, without one, floating."""
    data, kind = values.tobytes(), {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    height, width = values.shape
    entries = {256: width, 257: height, 258: 8 * values.itemsize, 259: 1, 262: int(not white_is_zero)}
    entries |= {273: 8 + 2 + 12 * 10 + 4, 277: 1, 278: height, 279: len(data), 339: kind}
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + fields + bytes(4) + data


FILES: dict[str, Callable[[np.ndarray], bytes]] = {  # uint8 (H, W) -> the same picture with more bits
    "16 bits PNG": lambda grey: stored(grey.astype(np.uint16) * 257, "PNG"),
    "16 bits TIFF": lambda grey: stored(grey.astype(np.uint16) * 257, "TIFF"),
    "16 bits PGM": lambda grey: netpbm("P5", 65535, grey.astype(">u2") * 257),
    "12 bits PGM": lambda grey: netpbm("P5", 4095, np.rint(grey * (4095 / 255)).astype(">u2")),
    "31 bits TIFF": lambda grey: stored(np.rint(grey * ((2**31 - 1) / 255)).astype(np.int32), "TIFF"),
    "16 bits in 32, TIFF": lambda grey: stored(grey.astype(np.int32) * 257, "TIFF"),
    "32 bits without a sign, TIFF": lambda grey: tiff(grey.astype(np.uint32) * 16843009, False),
    "16 bits TIFF, white is zero": lambda grey: tiff(65535 - grey.astype(np.uint16) * 257, True),
    "float TIFF, white is zero": lambda grey: tiff(1 - (grey / 255).astype(np.float32), True),
    "float TIFF": lambda grey: stored((grey / 255).astype(np.float32), "TIFF"),
    "float PFM": lambda grey: netpbm("Pf", -1.0, (grey[::-1] / 255).astype("<f4")),
}


def shown(data: bytes, preprocessing: Preprocessing) -> np.ndarray:
    return prepare(decode_picture(data, "dim"), "dim", preprocessing, SHAPE)


@pytest.mark.parametrize("kind", FILES)
def test_a_dim_photo_stays_dim(kind: str) -> None:
    dim = shown(stored(DIM, "PNG"), Photo())
    np.testing.assert_array_equal(dim[0], DIM)
    np.testing.assert_array_equal(shown(FILES[kind](DIM), Photo()), dim)


@pytest.mark.parametrize("kind", FILES)
def test_a_pale_garment_stays_pale(kind: str) -> None:
    pale = np.full((24, 24), 250, np.uint8)
    pale[4:20, 8:16] = 220
    assert 25 < shown(stored(pale, "PNG"), Garment()).max() < 35
    difference = shown(FILES[kind](pale), Garment()).astype(int) - shown(stored(pale, "PNG"), Garment())
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("values", [DIM.astype(np.float32), DIM / np.float32(255) - 1])
def test_floating_point_without_a_scale_is_refused(values: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"^dim: floating-point pixels from .* nothing says which is white: scale"):
        shown(stored(values, "TIFF"), Photo())


def test_an_image_of_pillow_means_what_its_file_says() -> None:
    for kind in ("16 bits TIFF, white is zero", "32 bits without a sign, TIFF"):
        picture = Image.open(io.BytesIO(FILES[kind](DIM)))
        before = dict(picture.info)
        np.testing.assert_array_equal(prepare(upright(picture, "dim"), "dim", Photo(), SHAPE)[0], DIM)
        assert picture.info == before
