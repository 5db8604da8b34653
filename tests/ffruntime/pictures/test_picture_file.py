"""What stands in a picture's file beside its pixels never costs them; what is damaged is still refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ffruntime.core.errors import ImageError
from ffruntime.pictures import picture
from ffruntime.pictures.picture import decode_picture

GREY = np.random.default_rng(0).integers(0, 256, (40, 60), np.uint8)
PICTURE = Image.fromarray(np.kron(GREY, np.ones((3, 3), np.uint8))).convert("RGB")


def encoded(form: str, picture: Image.Image = PICTURE, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


PNG, JPEG = encoded("PNG"), encoded("JPEG", quality=90)
PROGRESSIVE = encoded("JPEG", quality=90, progressive=True)


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def with_chunk(*extra: bytes) -> bytes:
    return PNG[:33] + b"".join(extra) + PNG[33:]  # after IHDR


def with_exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    body = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    segment = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4)
    return JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + JPEG[2:]


UNIT = (0x128, 2, 4, b"two\0")  # the unit of the resolution, as text
TURNED = b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHIHHI", 0x112, 3, 1, 6, 0, 0)
XMP = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'
WHOLE = {
    "Exif with text for a number": (with_exif((0x112, 3, 1, struct.pack("<HH", 1, 0)), UNIT), JPEG),
    "a large text": (with_chunk(chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(2 << 20)))), PNG),
    "a text that is none": (with_chunk(chunk(b"iTXt", b"\xff\0\1\1\0\0x")), PNG),
    "a colour profile that is none": (with_chunk(chunk(b"iCCP", b"x\0\0nonsense")), PNG),
    "a wrong checksum": (with_chunk(chunk(b"gAMA", struct.pack(">I", 45455), crc=1)), PNG),
    "Exif that is none": (with_chunk(chunk(b"eXIf", b"garbage")), PNG),
    "Exif with a wrong checksum": (with_chunk(chunk(b"eXIf", b"II*\0", crc=1)), PNG),
    "an animation's chunks": (with_chunk(chunk(b"acTL", b"")), PNG),
    "no end of a PNG": (PNG[:-12], PNG),
    "no end of a JPEG": (JPEG[:-2], JPEG),
    "half an end of a JPEG": (JPEG[:-1], JPEG),
    "no end of a progressive JPEG": (PROGRESSIVE[:-2], PROGRESSIVE),
}


@pytest.mark.parametrize("what", WHOLE)
def test_a_whole_picture_is_read_whatever_is_beside_it(what: str) -> None:
    data, same = WHOLE[what]
    np.testing.assert_array_equal(np.asarray(decode_picture(data, what)), np.asarray(decode_picture(same, what)))


@pytest.mark.parametrize(
    "data",
    [
        with_exif((0x112, 3, 1, struct.pack("<HH", 6, 0)), UNIT),
        with_chunk(chunk(b"iTXt", XMP)),
        PNG[:-12]
        + chunk(b"eXIf", b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHIHHI", 0x112, 3, 1, 6, 0, 0))
        + PNG[-12:],
    ],
    ids=["Exif beside nonsense", "XMP", "Exif after the pixels"],
)
def test_which_way_is_up_is_read_all_the_same(data: bytes) -> None:
    assert decode_picture(data, "turned").size == PICTURE.size[::-1]


@pytest.mark.parametrize("data", [PNG, JPEG, PROGRESSIVE], ids=["PNG", "JPEG", "progressive"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_a_picture_that_is_cut_off_is_refused(share: float, data: bytes) -> None:
    with pytest.raises(ImageError, match="damaged image"):
        decode_picture(data[: int(share * len(data))], "cut")


BOMBS = {
    "comments of a PGM": b"P5\n" + (1 << 21) * b"#x\n" + b"2 2 255\n" + bytes(4),
    "blanks of a PPM": b"P6" + (1 << 24) * b" " + b"2 2 255\n" + bytes(12),
    "digits of a PPM": b"P6 2 2 " + (1 << 22) * b"9" + b"\n" + bytes(12),
    "comments between numbers": b"P2 2 2 255\n" + (1 << 22) * b"#x\n" + b"1 2 3 4",
    "parts of a PNG": PNG[:33] + 200_000 * chunk(b"tEXt", b"") + PNG[33:],
    "segments of a JPEG": JPEG[:2] + 100_000 * b"\xff\xfe\0\2" + JPEG[2:],
    "filling of a JPEG": JPEG[:2] + (1 << 22) * b"\xff" + JPEG[2:],
}


@pytest.mark.parametrize("what", BOMBS)
def test_a_header_without_end_is_not_read_to_its_end(what: str) -> None:
    with pytest.raises(ImageError, match=r"damaged image: (no whole header|of more than|longer than)"):
        decode_picture(BOMBS[what], what)


def test_a_large_webp_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded("WEBP")
    monkeypatch.setattr(picture, "MAX_PIXELS", 2 * 180 * 120 - 1)
    with pytest.raises(ImageError, match="megapixels in WebP"):
        decode_picture(data, "large")
