"""Changed worlds: what may happen to the images of a camera that went on learning for a reason."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter, ImageOps

WORLDS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "inverted": ImageOps.invert,  # dark figures on light ground
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1.3)),  # out of focus
    "rotated": lambda image: image.rotate(45, Image.Resampling.BILINEAR),  # the camera hangs askew
    "thick": lambda image: image.filter(ImageFilter.MaxFilter(5)),  # a broad pen
}


def change(world: str, pixels: np.ndarray) -> np.ndarray:
    """Images uint8 (N, 1, H, W) as they arrive in a world (`WORLDS`), in the same shape."""
    return np.stack([np.asarray(WORLDS[world](Image.fromarray(image[0])))[None] for image in pixels])
