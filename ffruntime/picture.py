"""Any picture -> the network's input, prepared the way its training images were: digit, garment or photo.

MNIST (LeCun, Cortes, Burges): the figure, antialiased, in a box of 20 × 20 pixels with its
proportions kept, in a field of 28 × 28 with its centre of mass in the middle; light on black.
Fashion-MNIST (Xiao et al. 2017): the figure as large as the field, in its middle; grey, light on black.
Photo: the middle of the picture, in its colours.
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
from typing import TypeAlias

import numpy as np
from PIL import ExifTags, Image, ImageFilter, UnidentifiedImageError

from .core.errors import ImageError
from .core.manifest import Digit, Photo, Preprocessing
from .core.reading import read_at_most
from .picture_file import FORMATS, LARGE_DECODERS, clean, most_bytes, without_end

MAX_BYTES = 256 << 20
MAX_SIDE = 16_384  # pixels
MAX_PIXELS = 64_000_000
WORKING_SIDE = 512  # larger pictures are averaged down first, which also averages noise away
FIGURE_CONTRAST = 0.03  # of full scale: less than this is an empty picture
CLEAN = 0.004  # of full scale, one grey level of 255: no surface is fitted to a background this even
TRIM = 0.05  # of full scale: what differs less from the background is trimmed off a garment (Xiao et al.)
LUMINANCE = np.array([0.299, 0.587, 0.114])  # of red, green and blue (ITU-R BT.601)
BAND = 16  # rows of the averaged picture that are converted at once; bounds the memory it takes
PREPARING = 160  # bytes of memory for each pixel of the averaged picture while it is prepared; measured
ORDINARY = 9 << 20  # bytes: what the planner's figure for a process has of a picture (`examples/three.png`)


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
        cleaned, doubtful = clean(data, name), without_end(data)
        picture = _open(cleaned, name)
        beside = len(data) + _decoder_bytes(picture) + (0 if cleaned is data else len(cleaned))
        picture.draft(None, (2 * WORKING_SIDE, 2 * WORKING_SIDE))
        if picture.format == "PNG" and "exif" not in picture.info:  # it may follow: looking for it decodes the PNG
            _require_memory(name, beside + _pixel_bytes(picture), memory_limit)
        copies = 1 + (_turn(picture) is not None) + (doubtful is not None)
        _require_memory(name, beside + _pixel_bytes(picture, copies), memory_limit)
        picture.load()
        if doubtful and not _same_pixels(picture, doubtful, name):
            raise ImageError(f"{name}: damaged image: cut off")
        turn = _turn(picture)  # of a TIFF, Pillow has done that by now
        return picture if turn is None else picture.transpose(turn)


def upright(picture: Image.Image, name: str) -> Image.Image:
    """An image of Pillow, turned as its own metadata say. Raises `ImageError` with the name."""
    with _refusing(name):
        picture.load()
        turn = _turn(picture)
        return picture if turn is None else picture.transpose(turn)


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """What brings a picture upright, by Exif or XMP; None where it is, or where they cannot be read."""
    try:
        return UPRIGHT.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow's reader raises anything on what is no Exif
        return None


def _same_pixels(picture: Image.Image, doubtful: bytes, name: str) -> bool:
    """Whether a loaded picture is complete: what `without_end` has added to its file changes no pixel."""
    other = _open(doubtful, name)
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


Box: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


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


def to_channels(picture: Image.Image) -> np.ndarray:
    """RGBA -> colour times opacity, and opacity: (H, W, 4); F -> grey from least to most: (H, W, 1); in [0, 1].

    Premultiplied, so that whatever hides behind full transparency does not count.
    """
    if picture.mode == "F":
        grey = np.asarray(picture, dtype=np.float64)[..., None]
        return (grey - grey.min()) / (np.ptp(grey) or 1)
    channels = np.asarray(picture, dtype=np.float64) / 255
    channels[..., :3] *= channels[..., 3:]
    return channels


def flatten(channels: np.ndarray) -> np.ndarray:
    """What `to_channels` gives, on white paper where it is transparent: (H, W, 4 or 1) -> RGB (H, W, 3)."""
    if channels.shape[-1] == 1:
        return channels.repeat(3, axis=-1)
    return channels[..., :3] + 1 - channels[..., 3:]


def _border(channels: np.ndarray) -> np.ndarray:
    """The outermost pixels: (H, W, C) -> (n, C)."""
    return np.concatenate([channels[0], channels[-1], channels[:, 0], channels[:, -1]])


def _even_border(deviation: np.ndarray) -> np.ndarray:
    """Which pixels of the border are background, less the figure where it touches them: mask (H, W)."""
    edge = np.ones(deviation.shape, bool)
    edge[1:-1, 1:-1] = False
    return edge & (deviation <= max(0.1 * deviation.max(), 6 * np.median(deviation[edge])))


def find_ink(channels: np.ndarray) -> np.ndarray:
    """How far each pixel is from the background: (H, W, C) -> (H, W) in [0, 1], 0 is background.

    The background is the median of the picture's border, so it may be light, dark or coloured; where
    the border is uneven (noise, shading, dark corners), the quadratic surface through it. What the border
    still deviates from that is taken for background everywhere.
    """
    ink = np.abs(channels - np.median(_border(channels), axis=0)).max(axis=-1)
    even = _even_border(ink)
    ripple = np.percentile(ink[even], 95)
    if ripple > CLEAN:
        y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in ink.shape), indexing="ij")
        surface = np.stack([np.ones(ink.shape), y, x, y * y, y * x, x * x], axis=-1)  # (H, W, 6)
        coefficients = np.linalg.lstsq(surface[even], channels[even], rcond=None)[0]  # (6, C)
        away = surface @ coefficients  # (H, W, C)
        ink = np.abs(np.subtract(channels, away, out=away), out=away).max(axis=-1)
        ripple = np.percentile(ink[_even_border(ink)], 95)
    peak = ink.max()
    if peak < max(FIGURE_CONTRAST, 3.5 * ripple):
        return np.zeros_like(ink)
    floor = max(1.25 * ripple, 0.1 * peak) if ripple > CLEAN else 0.0
    return np.clip((ink - floor) / (peak - floor), 0, 1)


def _bounding_box(mask: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _crop_figure(ink: np.ndarray, box: int) -> np.ndarray:
    """The part of `ink` (H, W) that the figure fills, (h, w).

    In a figure of MNIST's own size every pixel with any ink belongs to it. The larger it is, the more a
    faint rim is blur, of which the outer half does not, and a pixel with no ink around it is a speck.
    """
    side = max(ink[_bounding_box(ink > 0)].shape)
    inked = ink > 0.5 * max(0.0, 1 - box / side)
    around = ImageFilter.BoxBlur(max(0.0, side / box - 1) / 2)
    stroke = inked & (np.asarray(Image.fromarray(np.uint8(255 * inked)).filter(around)) > 0.15 * 255)
    return ink[_bounding_box(stroke if 2 * stroke.sum() > inked.sum() else inked)]


def _scale(figure: np.ndarray, box: int) -> np.ndarray:
    """The figure, its longer side `box` pixels, its proportions kept: (h, w) in [0, 1] -> (h', w') in [0, 1]."""
    scale = box / max(figure.shape)
    height, width = (max(1, round(side * scale)) for side in figure.shape)
    resized = Image.fromarray(figure.astype(np.float32)).resize(
        (width, height), Image.Resampling.LANCZOS, reducing_gap=3.0
    )
    return np.clip(np.asarray(resized), 0, 1)


def _place(figure: np.ndarray, size: tuple[int, int], centre: Sequence[float]) -> np.ndarray:
    """The figure (h, w) in a field of `size`, its `centre` as near to the field's as it gets within it; else 0."""
    top, left = (  # never off the field
        min(max(round(full / 2 - middle), 0), full - side)
        for full, middle, side in zip(size, centre, figure.shape, strict=True)
    )
    field = np.zeros(size, np.float32)
    field[top : top + figure.shape[0], left : left + figure.shape[1]] = figure
    return field


def place_digit(ink: np.ndarray, size: tuple[int, int], box: int) -> np.ndarray:
    """The figure scaled into `box` and centred by mass: (h, w) in [0, 1] -> `size` (H, W), 0 to exactly 1."""
    figure = _scale(_crop_figure(ink.astype(np.float32), box), box)
    figure = figure / figure.max()  # thin strokes come out faint; all of MNIST's images reach full scale
    centre = [
        (figure.sum(axis=1 - axis) @ np.arange(side)) / figure.sum() for axis, side in enumerate(figure.shape)
    ]
    return _place(figure, size, centre)


def place_garment(ink: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The figure scaled to fill the field and centred by its box: (h, w) in [0, 1] -> `size` (H, W) in [0, 1]."""
    figure = _scale(ink[_bounding_box(ink > min(TRIM, 0.5 * ink.max()))], min(size))
    return _place(figure, size, [side / 2 for side in figure.shape])


def garment_ink(channels: np.ndarray) -> np.ndarray:
    """How far the grey of each pixel is from the background's: (H, W, 4 or 1) -> (H, W) in [0, 1].

    1 is as far as a grey can be from that background: black on light paper, white on dark.
    """
    grey = flatten(channels) @ LUMINANCE  # (H, W)
    background = np.median(_border(grey[..., None]))
    reach = np.abs(grey - background).max() / max(background, 1 - background)
    return find_ink(grey[..., None]) * reach


def middle(picture_size: tuple[int, int], size: tuple[int, int]) -> Box:
    """The largest box in the middle of a picture (width, height) that has the proportions of `size` (H, W)."""
    scale = min(full / side for full, side in zip(picture_size, size[::-1], strict=True))
    width, height = (max(1, round(side * scale)) for side in size[::-1])
    left, top = (picture_size[0] - width) // 2, (picture_size[1] - height) // 2
    return left, top, left + width, top + height


def place_photo(channels: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """What `to_channels` gives, scaled: (h, w, 4 or 1) -> uint8 `shape` (C, H, W), grey where C is 1."""
    photo = Image.fromarray(np.rint(flatten(channels) * 255).astype(np.uint8))
    return _to_array(photo.resize(shape[:0:-1], Image.Resampling.BICUBIC), shape[0])


def prepare(
    picture: Image.Image, name: str, preprocessing: Preprocessing, shape: tuple[int, int, int]
) -> np.ndarray:
    """Picture -> uint8 (C, H, W), as the training images are. Raises `ImageError` where there is no figure."""
    small = shrink(picture, middle(picture.size, shape[1:]) if isinstance(preprocessing, Photo) else None)
    if not np.isfinite(np.asarray(small)).all():
        raise ImageError(f"{name}: pixels that are not numbers (NaN or infinite)")
    channels = to_channels(small)
    if isinstance(preprocessing, Photo):
        return place_photo(channels, shape)
    ink = find_ink(channels) if isinstance(preprocessing, Digit) else garment_ink(channels)
    if not ink.any():
        raise ImageError(f"{name}: no figure in it, all of it looks like background")
    if isinstance(preprocessing, Digit):
        field = place_digit(ink, shape[1:], preprocessing.box)
    else:
        field = place_garment(ink, shape[1:])
    return np.rint(field * 255).astype(np.uint8)[None].repeat(shape[0], axis=0)


def take_as_is(picture: Image.Image, name: str, shape: tuple[int, int, int]) -> np.ndarray:
    """A picture that is ready, of 8 or 16 bits -> uint8 (C, H, W). Raises `ImageError` where it is not."""
    channels, height, width = shape
    if picture.size != (width, height) or picture.mode == "F":
        raise ImageError(f"{name}: --no-preprocess takes {width} × {height} pixels of 8 or 16 bits, as they are")
    if picture.mode.startswith("I"):  # 16 bits; older versions of Pillow open a PNG of them as I
        picture = Image.fromarray(np.rint(np.asarray(picture, np.float32).clip(0, 65535) / 257).astype(np.uint8))
    return _to_array(picture, channels)


def _to_array(picture: Image.Image, channels: int) -> np.ndarray:
    """A picture of 8 bits -> uint8 (channels, H, W): grey, or red, green and blue."""
    pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    return pixels[None] if channels == 1 else np.moveaxis(pixels, -1, 0)
