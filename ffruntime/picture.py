"""Any picture of a figure -> the network's input, prepared the way MNIST was.

MNIST (LeCun, Cortes, Burges): the figure, antialiased, in a box of 20 × 20 pixels with its
proportions kept, in a field of 28 × 28 with its centre of mass in the middle; light on black.
"""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .bundle import Preprocessing
from .errors import ImageError

MAX_SIDE = 16_384  # pixels
MAX_PIXELS = 64_000_000
WORKING_SIDE = 512  # larger pictures are averaged down first, which also averages noise away
FIGURE_CONTRAST = 0.03  # of full scale: less than this is an empty picture


def read_picture(path: str) -> Image.Image:
    """The picture at `path` (`-`: standard input), upright. Raises `ImageError` naming the file."""
    name = "standard input" if path == "-" else path
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{name}: cannot be read: {error.strerror}") from error
    if not data:
        raise ImageError(f"{name}: empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's bomb warning; the limits below are stricter
            picture = Image.open(io.BytesIO(data))
            width, height = picture.size
            if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
                raise ImageError(
                    f"{name}: {width} × {height} pixels is more than {MAX_SIDE} a side or "
                    f"{MAX_PIXELS // 1_000_000} megapixels; crop or scale it"
                )
            return ImageOps.exif_transpose(picture)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image that can be read (PNG, JPEG, …)") from error
    except Exception as error:  # Pillow's plugins raise anything on damaged files
        reason = "too large when unpacked" if "Bomb" in type(error).__name__ else str(error) or type(error).__name__
        raise ImageError(f"{name}: damaged image: {' '.join(reason.split())}") from error


def to_rgba(picture: Image.Image) -> Image.Image:
    """A picture of any mode as 8-bit RGBA. More than 8 bits a channel are stretched from least to most."""
    if picture.mode == "F" or picture.mode.startswith("I"):
        grey = np.asarray(picture, dtype=np.float32)
        low, high = float(grey.min()), float(grey.max())
        picture = Image.fromarray(np.rint((grey - low) * (255 / ((high - low) or 1))).astype(np.uint8))
    return picture.convert("RGBA")


def to_channels(rgba: Image.Image) -> np.ndarray:
    """Colour and opacity: RGBA -> (H, W, 4) float32 in [0, 1], colour times opacity.

    Premultiplied, so that whatever hides behind full transparency does not count.
    """
    channels = np.asarray(rgba, dtype=np.float32) / 255
    channels[..., :3] *= channels[..., 3:]
    return channels


def find_ink(channels: np.ndarray) -> np.ndarray:
    """How far each pixel is from the background: (H, W, 4) -> (H, W) in [0, 1], 0 is background.

    The background is the median of the picture's border, so it may be light, dark or coloured. What
    the border itself deviates from that (noise, shading) is taken for background everywhere.
    """
    border = np.concatenate([channels[0], channels[-1], channels[:, 0], channels[:, -1]])
    background = np.median(border, axis=0)
    ink = np.abs(channels - background).max(axis=-1)
    peak = ink.max()
    ripple = float(np.percentile(np.abs(border - background).max(axis=-1), 95))
    floor = max(1.25 * ripple, 0.2 * peak) if ripple > 0.004 else 0.0  # below one grey level of 255: clean
    if peak < FIGURE_CONTRAST or peak <= floor:
        return np.zeros_like(ink)
    return np.clip((ink - floor) / (peak - floor), 0, 1)


def _resize(plane: np.ndarray, width: int, height: int) -> np.ndarray:
    resized = Image.fromarray(plane, mode="F").resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.clip(np.asarray(resized), 0, 1)


def _bounding_box(ink: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def centre_figure(ink: np.ndarray, size: tuple[int, int], box: int) -> np.ndarray:
    """The figure scaled into `box` and centred by mass: (h, w) in [0, 1] -> `size` (H, W) in [0, 1]."""
    figure = ink[_bounding_box(ink)]
    scale = box / max(figure.shape)
    height, width = (max(1, round(side * scale)) for side in figure.shape)
    figure = _resize(figure, width, height)
    field = np.zeros(size, np.float32)
    mass = figure.sum()
    offsets = []
    for axis, (side, full) in enumerate(zip(figure.shape, size, strict=True)):
        centre = float((figure.sum(axis=1 - axis) * np.arange(side)).sum() / mass)
        offsets.append(min(max(round(full / 2 - centre), 0), full - side))  # never off the field
    top, left = offsets
    field[top : top + height, left : left + width] = figure
    return field


def prepare(
    picture: Image.Image, name: str, preprocessing: Preprocessing, shape: tuple[int, int, int]
) -> np.ndarray:
    """Picture -> uint8 (1, H, W), as MNIST's own images are. Raises `ImageError` where there is no figure."""
    rgba = to_rgba(picture)
    rgba.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BOX)
    ink = find_ink(to_channels(rgba))
    if not ink.any():
        raise ImageError(f"{name}: no figure in it, all of it looks like background")
    return np.rint(centre_figure(ink, shape[1:], preprocessing.box) * 255).astype(np.uint8)[None]


def take_as_is(picture: Image.Image, name: str, shape: tuple[int, int, int]) -> np.ndarray:
    """A picture that is ready -> uint8 (C, H, W). Raises `ImageError` where its size is another."""
    channels, height, width = shape
    if picture.size != (width, height):
        raise ImageError(
            f"{name}: {picture.size[0]} × {picture.size[1]} pixels, and --no-preprocess takes {width} × {height}"
        )
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture, dtype=np.float32) / 257).astype(np.uint8))
    pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    return pixels[None] if channels == 1 else np.moveaxis(pixels, -1, 0)
