"""Worlds in which digits arrive changed, and normalisation statistics of what arrives as a method."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
from msgspec import structs
from PIL import Image, ImageFilter, ImageOps

from ..learning.normalisation import renormalised
from ..model import Model

SPECKS = 0.2  # share of the pixels that are black or white in the world with salt and pepper
CORNERS = (
    (7, 8),
    (22, 6),
    (28, 27),
    (0, 27),
)  # where a picture's corners come to lie, from the upper left on, (x, y)


def speckled(image: Image.Image) -> Image.Image:
    """Salt and pepper: pixels drawn by chance are black or white. The image itself is the seed."""
    pixels = np.array(image)
    rng = np.random.default_rng(zlib.crc32(pixels.tobytes()))
    drawn = rng.random(pixels.shape)
    pixels[drawn < SPECKS / 2], pixels[drawn > 1 - SPECKS / 2] = 0, 255
    return Image.fromarray(pixels)


def tilted(image: Image.Image) -> Image.Image:
    """Perspective: the upper edge is far away, the corners come to lie at `CORNERS`."""
    w, h = image.size
    return image.transform(
        image.size, Image.Transform.PERSPECTIVE, perspective(CORNERS, (w, h)), Image.Resampling.BILINEAR
    )


def perspective(corners: tuple[tuple[int, int], ...], size: tuple[int, int]) -> tuple[float, ...]:
    """The eight numbers with which Pillow finds, of a place in the result, the one in a picture of that size whose
    corners come to lie at `corners`: ((a x + b y + c) / n, (d x + e y + f) / n) with n = g x + h y + 1."""
    w, h = size
    rows, values = [], []
    for (x, y), (u, v) in zip(corners, ((0, 0), (w, 0), (w, h), (0, h)), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return tuple(np.linalg.solve(np.array(rows, float), np.array(values, float)).tolist())


# How images are changed in scene 2.
WORLDS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "inverted": ImageOps.invert,  # dark figures on light ground
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1.3)),  # out of focus
    "rotated": lambda image: image.rotate(45, Image.Resampling.BILINEAR),  # the camera hangs askew
    "thick": lambda image: image.filter(ImageFilter.MaxFilter(5)),  # a broad pen
    "speckled": speckled,  # a bad sensor
    "tilted": tilted,  # the camera looks from below
}


def change(world: str, pixels: np.ndarray) -> np.ndarray:
    """Images uint8 (N, 1, H, W) as they arrive in a world (`WORLDS`), in the same shape."""
    return np.stack([np.asarray(WORLDS[world](Image.fromarray(image[0])))[None] for image in pixels])


class Renormalised:
    """A method (`methods.py`) that is told images, uint8 (N, C, H, W): normalisation statistics are those of all
    that came, whose labels it does not look at, and the network's goodness answers."""

    kept = 0

    def __init__(self, model: Model) -> None:
        self._model, self._now = model, model
        self._came = np.empty((0, *model.manifest.network.image.shape), np.uint8)

    def add(self, x: np.ndarray, labels: np.ndarray) -> None:  # noqa: ARG002
        self._came, weights = np.concatenate([self._came, x]), self._model.weights
        tensors = {**weights.tensors, **renormalised(self._model, self._came)}
        self._now = self._model.with_weights(structs.replace(weights, tensors=tensors))

    def scores(self, x: np.ndarray) -> np.ndarray:
        return self._now.scores(x)
