"""Kinds of picture files; what of a file is left out before it is decoded, so that metadata cannot cost
its pixels; and which number is white in it.

A header or a list of parts without end is refused. Parts of a PNG that no pixel needs are left out, whatever is
wrong with them (PNG specification, third edition, section 5); a JPEG without its end marker gets one.
"""

from __future__ import annotations

import contextlib
import functools
import re
import struct
import zlib
from typing import TYPE_CHECKING

from PIL import __version__ as PILLOW

from ..core.errors import ImageError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

READS_AVIF = tuple(map(int, PILLOW.split(".")[:2])) >= (11, 3)
# Not EPS, for which Pillow starts Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP", *(["AVIF"] if READS_AVIF else []))
SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    *([".avif"] if READS_AVIF else []),
)
LARGE_DECODERS = {"WEBP": "WebP", "AVIF": "AVIF"}  # which take 12 bytes a pixel

TIFF = (b"II", b"MM")
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
END_OF_JPEG = b"\xff\xd9"
PARTS = 100_000  # of a file; a PNG of 64 megapixels has some 10,000
HEADER = 1 << 16  # bytes of a netpbm file before its pixels, comments included
SAMPLE = 16  # bytes of a number in a netpbm file that is written as text, with what is around it
BITS, SIGN, SIGNED = 258, 339, 2  # tags of TIFF: BitsPerSample and SampleFormat (TIFF 6.0, sections 8 and 19)
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # PhotometricInterpretation (section 8)
FULL_SCALE = "full scale"  # what `Image.info` says white is in a grey picture of more than 8 bits
NEEDED = (b"IHDR", b"PLTE", b"tRNS")  # before the pixels of a PNG
BLANK = rb"(?:[\s]|#[^\r\n]*[\r\n])"
SIZES = 2 * (BLANK + rb"+[0-9]+")
NETPBM = re.compile(rb"P(?:[14]" + SIZES + rb"|[2356f]" + SIZES + BLANK + rb"+[-+0-9.eE]+)" + BLANK)


def clean(data: bytes, name: str) -> bytes:
    """The same file without what its pixels do not need and a reader could stumble over; mostly `data` itself.

    Raises `ImageError` with the name where a header, or a list of parts, is longer than any picture's.
    """
    if data.startswith(PNG):
        return _clean_png(data, name)
    if data.startswith(JPEG):
        _count_segments(data, name)
        return data if END_OF_JPEG in data[-HEADER:] else data.rstrip(b"\xff") + END_OF_JPEG
    if data[:2] in TIFF:
        _silence_libtiff()
    if re.match(rb"P[1-6f]", data) and not NETPBM.match(data[:HEADER]):
        raise ImageError(f"{name}: damaged image: no whole header in its first {HEADER >> 10} KiB")
    return data


def without_end(data: bytes) -> bytes | None:
    """Of a JPEG that lacks its end marker, another file that shows the same, unless pixels are missing as well:
    then what is added here is taken for some. Of another file, None."""
    if data.startswith(JPEG) and END_OF_JPEG not in data[-HEADER:]:
        return data.rstrip(b"\xff") + 512 * b"\xa5\x5a\x3c\x12" + END_OF_JPEG
    return None


def most_bytes(data: bytes, samples: int) -> int | None:
    """What a netpbm file that is written as text may have, at most, for so many samples; of another file, None."""
    return HEADER + SAMPLE * samples if re.match(rb"P[123]\s", data) else None


@functools.cache
def _silence_libtiff() -> None:
    """libtiff writes on stderr what is wrong with a file, beside the error that Pillow raises: never again in this
    process. Its functions are those of the libraries that Pillow's module was linked with."""
    import ctypes

    from PIL import _imaging

    with contextlib.suppress(OSError, AttributeError):  # linked otherwise, as on Windows
        library = ctypes.CDLL(_imaging.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            handler = getattr(library, name)
            handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            handler(None)


def _clean_png(data: bytes, name: str) -> bytes:
    """Only the chunks that pixels need, and Exif and XMP, which say which way is up, where their checksums fit."""
    view, at, head, pixels = memoryview(data), len(PNG), list[memoryview](), list[memoryview]()
    for _ in range(PARTS):
        if at + 8 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, at)
        chunk = view[at : at + 12 + length]
        at += 12 + length
        if kind == b"IDAT":
            pixels.append(chunk)
        elif kind in NEEDED or (_says_which_way_is_up(kind, chunk) and _fits(chunk)):
            head.append(chunk)
        elif kind == b"IEND":
            break
    else:
        raise ImageError(f"{name}: damaged image: of more than {PARTS:,} parts")
    end = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))
    if sum(map(len, head)) + sum(map(len, pixels)) + len(PNG) + len(end) == len(data) and data.endswith(end):
        return data  # nothing to leave out
    return b"".join([PNG, *head, *pixels, end])


def _says_which_way_is_up(kind: bytes, chunk: memoryview) -> bool:
    xmp = kind == b"iTXt" and len(chunk) < HEADER and bytes(chunk[8:28]).startswith(b"XML:com.adobe.xmp\0\0")
    return kind == b"eXIf" or xmp


def _fits(chunk: memoryview) -> bool:
    return len(chunk) >= 12 and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _count_segments(data: bytes, name: str) -> None:
    """Raise `ImageError` where a JPEG has more segments before its pixels than any camera writes."""
    at = 2
    for _ in range(PARTS // 10):
        if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] == 0xDA:  # no segment, or the pixels' own
            return
        fill = data[at + 1] == 0xFF
        at += 1 if fill else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise ImageError(f"{name}: damaged image: of more than {PARTS // 10:,} parts")


def full_scale(picture: Image.Image) -> dict[str, float]:
    """What white is in a grey picture of more than 8 bits as it is opened, by its format's rule, for `Image.info`.

    PNG and netpbm: 65535 (Pillow has scaled another MAXVAL to that). TIFF: the greatest number of so many bits,
    with a sign or without one. Floating point has no such rule.
    """
    if not picture.mode.startswith("I"):
        return {}
    tags = getattr(picture, "tag_v2", {})
    bits = int(tags.get(BITS, (16,))[0]) - (SIGNED in tags.get(SIGN, ()))
    return {FULL_SCALE: 2.0**bits - 1}


def as_meant(picture: Image.Image) -> Image.Image:
    """A picture with the pixels that its TIFF's tags say. Of more than 8 bits, Pillow gives them as they are in the
    file: where zero is white, and with 32 bits without a sign, of which it takes the highest for one."""
    tags = getattr(picture, "tag_v2", None)
    if tags is None or not picture.mode.startswith(("I", "F")):
        return picture
    info, meant = picture.info | full_scale(picture), picture
    if picture.mode == "I" and SIGNED not in tags.get(SIGN, ()) and picture.getextrema()[0] < 0:  # type: ignore[operator]
        import numpy as np
        from PIL import Image

        meant = Image.fromarray((np.asarray(picture).view(np.uint32) >> 1).view(np.int32))
        info[FULL_SCALE] = 2.0**31 - 1
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        most = 1.0 if meant.mode == "F" else info[FULL_SCALE]
        plain = meant if meant.mode in ("I", "I;16", "F") else meant.convert("I")
        meant = plain.point(lambda value: value * -1 + most)
    elif meant is picture and info != picture.info:
        meant = picture.copy()
    if meant is not picture:
        meant.info = info
    return meant


def white(picture: Image.Image, name: str, grey: np.ndarray) -> float:
    """What white is in a grey picture of more than 8 bits, with (some of) its values; never what happens to be the
    most in it. Raises `ImageError` with the name where nothing says.

    A program that has no 16 bits stores them in 32: where no value needs more, white is 65535.
    """
    most = float(grey.max())
    if picture.mode == "F":
        if grey.min() < 0 or most > 1:
            raise ImageError(
                f"{name}: floating-point pixels from {grey.min():g} to {most:g}, and nothing says which is white: "
                "scale them to 0 to 1, or save it with 8 or 16 bits"
            )
        return 1.0
    full = float(picture.info.get(FULL_SCALE, 65535.0 if picture.mode != "I" else 2.0**31 - 1))
    return 65535.0 if most <= 65535 < full else full
