"""Any picture -> the network's input, prepared the way its training images were: digit, garment or photo.

`figure.py` and `contrast.py` say where the figure is, `placing.py` puts it into the network's field. A photo is the
middle of the picture, in its colours.
"""

from __future__ import annotations

import io
import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from ..core.errors import ImageError
from ..core.manifest import Digit, Photo, Preprocessing
from ..core.reading import read_at_most
from .picture_file import FORMATS, LARGE_DECODERS, as_meant, clean, full_scale, most_bytes, white, without_end

MAX_BYTES = 256 << 20
MAX_SIDE = 16_384  # pixels
MAX_PIXELS = 64_000_000
WORKING_SIDE = 512  # larger pictures are averaged down first, which also averages noise away
PLAIN = 0.06  # of full scale: a photo of less contrast shows next to nothing
LUMINANCE = np.array([0.299, 0.587, 0.114])  # of red, green and blue (ITU-R BT.601)
BAND = 16  # rows of the averaged picture that are converted at once; bounds the memory it takes
PREPARING = 160  # bytes of memory for each pixel of the averaged picture while it is prepared; measured
ORDINARY = 9 << 20  # bytes: what the planner's figure for a process has of a picture (`examples/three.png`)

FULL_SIZE = "full size"  # what `Image.info` says of a picture that was decoded smaller: (width, height), upright
ONE_COLOUR = "nearly all of one colour; there is next to nothing in it to tell by"
CUT = "what it shows is cut by the border; show all of it, with background around"

Box: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom, in pixels

# What brings a picture upright whose `Orientation` is that (Exif 2.3, section 4.6.4).
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ON_ITS_SIDE = {UPRIGHT[orientation] for orientation in (5, 6, 7, 8)}


def display_name(path: str) -> str:
    """What messages call the picture at `path`."""
    return "standard input" if path == "-" else path


def read_picture(path: str, memory_limit: int | None = None) -> Image.Image:
    """The picture at `path` (`-`: standard input), upright. Raises `ImageError` naming the file.

    `memory_limit`: bytes that reading and preparing it may take beyond an ordinary picture; one that would take
    more is not decoded.
    """
    name = display_name(path)
    return decode_picture(_read_bytes(path, name, memory_limit), name, memory_limit)


def decode_picture(data: bytes, name: str, memory_limit: int | None = None) -> Image.Image:
    """The picture in a file's bytes, upright. Raises `ImageError` with the name.

    A JPEG much larger than `prepare` needs is decoded at a fraction of its size. `memory_limit` as for
    `read_picture`.
    """
    _require_memory(name, len(data), memory_limit, "at least ")
    with _refusing(name):
        cleaned, extended = clean(data, name), without_end(data)
        picture = _open(cleaned, name)
        beside = len(data) + _decoder_bytes(picture) + (0 if cleaned is data else len(cleaned))
        stored = picture.size
        picture.draft(None, (2 * WORKING_SIDE, 2 * WORKING_SIDE))
        picture.info.update(full_scale(picture))
        if picture.format == "PNG" and "exif" not in picture.info:  # it may follow: looking for it decodes the PNG
            _require_memory(name, beside + _pixel_bytes(picture), memory_limit)
        deep = picture.format == "TIFF" and picture.mode.startswith(("I", "F"))  # which `as_meant` may copy
        copies = 1 + (_turn(picture) is not None) + (extended is not None) + 2 * deep
        _require_memory(name, beside + _pixel_bytes(picture, copies), memory_limit)
        picture.load()
        if extended and not _same_pixels(picture, extended, name):
            raise ImageError(f"{name}: damaged image: cut off")
        turn = _turn(picture)  # of a TIFF, Pillow has done that by now
        if stored != picture.size and picture.format == "JPEG":
            picture.info[FULL_SIZE] = stored[::-1] if turn in ON_ITS_SIDE else stored
        return _turned(as_meant(picture), turn)


def upright(picture: Image.Image, name: str) -> Image.Image:
    """An image of Pillow, turned as its own metadata say. Raises `ImageError` with the name."""
    with _refusing(name):
        picture.load()
        return _turned(as_meant(picture), _turn(picture))


def _turned(picture: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    return picture if turn is None else picture.transpose(turn)


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """What brings a picture upright, by Exif or XMP; None where it is, or where they cannot be read."""
    try:
        return UPRIGHT.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow's reader raises anything on what is no Exif
        return None


def _same_pixels(picture: Image.Image, extended: bytes, name: str) -> bool:
    """Whether a loaded picture is complete: what `without_end` has added to its file changes no pixel."""
    other = _open(extended, name)
    other.draft(None, (2 * WORKING_SIDE, 2 * WORKING_SIDE))
    return picture.tobytes() == other.tobytes()


def _decoder_bytes(picture: Image.Image) -> int:
    """What a decoder has beside the picture, at most, by what the header says."""
    pixels, channels = math.prod(picture.size), len(picture.getbands())
    if picture.format in LARGE_DECODERS:
        return 12 * pixels  # three canvases; planes and their copies
    if picture.format == "TIFF":
        return channels * pixels  # a strip, which can be all of it
    return 2 * channels * pixels if "progressive" in picture.info else 0  # a JPEG's coefficients


def _pixel_bytes(picture: Image.Image, copies: int = 1) -> int:
    """What a picture and `prepare` take."""
    (width, height), factor = picture.size, _reduction(picture.size)
    each = {"1": 1, "L": 1, "P": 1, "I;16": 2}.get(picture.mode, 4)
    band = width * min(height, BAND * factor) * (each + 4)
    return copies * each * width * height + band + PREPARING * width * height // factor**2


def _require_memory(name: str, needed: int, memory_limit: int | None, least: str = "") -> None:
    """Raises `ImageError` with the numbers where a picture needs more than an ordinary one and `memory_limit`."""
    if memory_limit is not None and needed > memory_limit + ORDINARY:
        beyond = needed - ORDINARY
        takes, more = (math.ceil(size / (1 << 20)) for size in (beyond, beyond - memory_limit))
        raise ImageError(
            f"{name}: takes {least}{takes} MiB more than an ordinary picture, and the memory allowed leaves "
            f"{memory_limit >> 20}; make it smaller, or allow {least}{more} MiB more"
        )


def shorter_side(data: bytes, name: str) -> int:
    """Of the picture in a file's bytes, in pixels, without decoding it. Raises `ImageError` with the name."""
    with _refusing(name):
        return min(_open(clean(data, name), name).size)


def _open(data: bytes, name: str) -> Image.Image:
    if not data:
        raise ImageError(f"{name}: empty file")
    if len(data) > MAX_BYTES:
        raise ImageError(f"{name}: more than {MAX_BYTES >> 20} MiB; crop or scale it")
    picture = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = picture.size
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise Image.DecompressionBombError
    if picture.format in LARGE_DECODERS and width * height > MAX_PIXELS // 2:
        limit = f"{MAX_PIXELS // 2_000_000} megapixels in {LARGE_DECODERS[picture.format]}"
        raise ImageError(f"{name}: more than {limit}; crop or scale it")
    most = most_bytes(data, width * height * len(picture.getbands()))
    if most is not None and len(data) > most:
        raise ImageError(f"{name}: damaged image: longer than {width} × {height} pixels can be")
    return picture


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Whatever Pillow raises within becomes an `ImageError` with the name."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's bomb warning; the limits above are stricter
            yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        limit = f"{MAX_SIDE} pixels a side or {MAX_PIXELS // 1_000_000} megapixels"
        raise ImageError(f"{name}: more than {limit}; crop or scale it") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image that can be read ({', '.join(FORMATS)})") from error
    except Exception as error:  # Pillow's plugins raise anything on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name}: damaged image: {reason}") from error


def _read_bytes(path: str, name: str, memory_limit: int | None) -> bytes:
    """A file's bytes, or so many of them that it is seen to be too large."""
    most = 1 + (MAX_BYTES if memory_limit is None else min(MAX_BYTES, memory_limit + ORDINARY))
    try:
        if path == "-":
            return bytes(read_at_most(sys.stdin.buffer, most))
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size  # 0 of a pipe
            return file.read(min(most, size)) if size else bytes(read_at_most(file, most))
    except (OSError, ValueError) as error:  # the last: a name with a NUL in it
        raise ImageError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


class Prepared(NamedTuple):
    """A picture, or a figure in it, as the network's image, and what it was made of."""

    image: np.ndarray  # uint8 (C, H, W)
    box: Box | None  # of the figure, in pixels of the upright picture; None where no figure is taken out of it
    paper: np.ndarray | None = None  # the picture averaged down, RGB in [0, 1]: (h, w, 3)
    ink: np.ndarray | None = None  # which of it is the figure's, in [0, 1]: (h, w); None where none is taken out
    doubts: tuple[str, ...] = ()  # what whoever took the picture should know


def shrink(picture: Image.Image, box: Box | None = None) -> Image.Image:
    """A picture of any mode, or what is in the box, averaged down to at most `WORKING_SIDE`: RGBA, or F where it
    has more than 8 bits.

    Converted band by band: no second copy in full size.
    """
    mode = "F" if picture.mode[0] in "FI" else "RGBA"
    left, upper, right, lower = box or (0, 0, *picture.size)
    width, height = right - left, lower - upper
    factor = _reduction((width, height))
    small = Image.new(mode, (math.ceil(width / factor), math.ceil(height / factor)))
    for top in range(0, small.height, BAND):
        band = (left, upper + top * factor, right, min(upper + (top + BAND) * factor, lower))
        small.paste(picture.crop(band).convert(mode).reduce(factor), (0, top))
    return small


def _reduction(size: tuple[int, int]) -> int:
    """By how much a picture (width, height) is averaged down."""
    return math.ceil(max(size) / WORKING_SIDE)


def to_channels(picture: Image.Image, full: float | None = None) -> np.ndarray:
    """RGBA -> colour times opacity, and opacity: (H, W, 4); F -> grey from 0 to `full`, or without that from its
    least to its most: (H, W, 1); in [0, 1].

    Premultiplied, so that whatever hides behind full transparency does not count.
    """
    if picture.mode == "F":
        grey = np.asarray(picture, dtype=np.float64)[..., None]
        return (grey / full).clip(0, 1) if full else (grey - grey.min()) / (np.ptp(grey) or 1)
    channels = np.asarray(picture, dtype=np.float64) / 255
    channels[..., :3] *= channels[..., 3:]
    return channels


def flatten(channels: np.ndarray) -> np.ndarray:
    """What `to_channels` gives, on white paper where it is transparent: (H, W, 4 or 1) -> RGB (H, W, 3)."""
    if channels.shape[-1] == 1:
        return channels.repeat(3, axis=-1)
    return channels[..., :3] + 1 - channels[..., 3:]


def on_paper(channels: np.ndarray) -> np.ndarray:
    """`flatten` of a drawing: on black paper where white paper would show nothing, of white on transparent."""
    paper = flatten(channels)
    return paper if np.ptp(paper) >= PLAIN or channels.shape[-1] == 1 else channels[..., :3]


def middle(picture_size: tuple[int, int], size: tuple[int, int]) -> Box:
    """The largest box in the middle of a picture (width, height) that has the proportions of `size` (H, W)."""
    scale = min(full / side for full, side in zip(picture_size, size[::-1], strict=True))
    width, height = (max(1, round(side * scale)) for side in size[::-1])
    left, top = (picture_size[0] - width) // 2, (picture_size[1] - height) // 2
    return left, top, left + width, top + height


def prepare(
    picture: Image.Image, name: str, preprocessing: Preprocessing, shape: tuple[int, int, int]
) -> np.ndarray:
    """Picture -> uint8 (C, H, W), as the training images are. Raises `ImageError` where there is no figure, or more
    than one."""
    found = prepare_all(picture, name, preprocessing, shape)
    if len(found) > 1:
        raise several(name, found)
    return found[0].image


def several(name: str, found: Sequence[Prepared]) -> ImageError:
    """What is said of a picture with more than one figure, where one is asked for."""
    boxes = ["({}, {}, {}, {})".format(*(one.box or ())) for one in found[:3]] + ["…"] * (len(found) > 3)
    where = f"several figures, at (left, top, right, bottom) {', '.join(boxes)}"
    return ImageError(f"{name}: {where}; crop to one, or --figures all answers each")


def prepare_all(
    picture: Image.Image, name: str, preprocessing: Preprocessing, shape: tuple[int, int, int]
) -> list[Prepared]:
    """Picture -> an image for every figure in it, from left to right; of a garment or photo, one. Raises
    `ImageError` where there is none."""
    small = shrink(picture, middle(picture.size, shape[1:]) if isinstance(preprocessing, Photo) else None)
    if not np.isfinite(np.asarray(small)).all():
        raise ImageError(f"{name}: pixels that are not numbers (NaN or infinite)")
    if isinstance(preprocessing, Digit):
        return _digits(picture, small, name, shape, preprocessing.box)
    channels = to_channels(small, white(picture, name, np.asarray(small)) if small.mode == "F" else None)
    if isinstance(preprocessing, Photo):
        paper = flatten(channels)
        whole = Image.fromarray(np.rint(paper * 255).astype(np.uint8))
        image = _to_array(whole.resize(shape[:0:-1], Image.Resampling.BICUBIC), shape[0])
        return [Prepared(image, None, paper, None, (ONE_COLOUR,) if _one_colour(paper) else ())]
    return [_garment(picture, channels, name, shape)]


def _digits(
    picture: Image.Image, small: Image.Image, name: str, shape: tuple[int, int, int], box: int
) -> list[Prepared]:
    """Every figure of a picture and of the same averaged down, as an image of a digit."""
    from .figure import find
    from .placing import place_digit

    channels = to_channels(small)
    paper = on_paper(channels).astype(np.float32)
    found = find(channels, paper)
    if not found.figures:
        raise ImageError(f"{name}: {found.why}")
    return [
        Prepared(_image(place_digit(ink, shape[1:], box), shape), _in_picture(where, picture), paper, ink)
        for ink, where in found.figures
    ]


def _garment(picture: Image.Image, channels: np.ndarray, name: str, shape: tuple[int, int, int]) -> Prepared:
    """A picture and what `to_channels` gives of it, as an image of a garment."""
    from .contrast import garment_ink, is_cut
    from .placing import box_of, garment_mask, place_garment

    paper = on_paper(channels)
    ink = garment_ink(paper @ LUMINANCE)
    if not ink.any():
        raise ImageError(f"{name}: no figure in it, all of it looks like background")
    where, image = box_of(garment_mask(ink)), _image(place_garment(ink, shape[1:]), shape)
    return Prepared(image, _in_picture(where, picture), paper, ink, (CUT,) if is_cut(ink) else ())


def _image(field: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """A field (H, W) in [0, 1] -> uint8 `shape` (C, H, W)."""
    return np.rint(field * 255).astype(np.uint8)[None].repeat(shape[0], axis=0)


def _in_picture(box: Box, picture: Image.Image) -> Box:
    """A box of a picture averaged down, in pixels of the upright picture as it lies in its file."""
    full = picture.info.get(FULL_SIZE, picture.size)
    scale = [_reduction(picture.size) * whole / side for whole, side in zip(full, picture.size, strict=True)]
    left, top, right, bottom = (round(at * scale[i % 2]) for i, at in enumerate(box))
    return left, top, min(right, full[0]), min(bottom, full[1])


def _one_colour(paper: np.ndarray) -> bool:
    """Whether a photo (h, w, 3) shows next to nothing."""
    least, most = np.percentile(paper, (1, 99), axis=(0, 1))
    return bool((most - least).max() < PLAIN)


def take_as_is(picture: Image.Image, name: str, shape: tuple[int, int, int]) -> np.ndarray:
    """A picture that is ready, of 8 or 16 bits -> uint8 (C, H, W). Raises `ImageError` where it is not."""
    channels, height, width = shape
    if picture.size != (width, height) or picture.mode == "F":
        raise ImageError(f"{name}: --no-preprocess takes {width} × {height} pixels of 8 or 16 bits, as they are")
    if picture.mode.startswith("I"):
        grey = np.asarray(picture, np.float64)
        picture = Image.fromarray(np.rint((grey / white(picture, name, grey)).clip(0, 1) * 255).astype(np.uint8))
    return _to_array(picture, channels)


def _to_array(picture: Image.Image, channels: int) -> np.ndarray:
    """A picture of 8 bits -> uint8 (channels, H, W): grey, or red, green and blue."""
    pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    return pixels[None] if channels == 1 else np.moveaxis(pixels, -1, 0)
