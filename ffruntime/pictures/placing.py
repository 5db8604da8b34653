"""A figure -> the network's field, as MNIST and Fashion-MNIST were made.

MNIST (LeCun, Cortes, Burges): the figure, antialiased, in a box of 20 × 20 pixels with its proportions kept, in a
field of 28 × 28 with its centre of mass in the middle; light on black. Fashion-MNIST (Xiao et al. 2017): the figure
as large as the field, in its middle; grey, light on black.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from .strokes import Box

TRIM = 0.05  # of full scale: what differs less from the background is trimmed off a garment (Xiao et al.)


def bounding_box(mask: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def box_of(mask: np.ndarray) -> Box:
    """The box around a mask (H, W) that is not empty."""
    rows, columns = bounding_box(mask)
    return int(columns.start), int(rows.start), int(columns.stop), int(rows.stop)


def _crop_figure(ink: np.ndarray, box: int) -> np.ndarray:
    """The part of `ink` (H, W) that the figure fills, (h, w).

    In a figure of MNIST's own size every pixel with any ink belongs to it. The larger it is, the more a
    faint rim is blur, of which the outer half does not, and a pixel with no ink around it is a speck.
    """
    side = max(ink[bounding_box(ink > 0)].shape)
    inked = ink > 0.5 * max(0.0, 1 - box / side)
    around = ImageFilter.BoxBlur(max(0.0, side / box - 1) / 2)
    stroke = inked & (np.asarray(Image.fromarray(np.uint8(255 * inked)).filter(around)) > 0.15 * 255)
    return ink[bounding_box(stroke if 2 * stroke.sum() > inked.sum() else inked)]


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


def garment_mask(ink: np.ndarray) -> np.ndarray:
    """Which of a garment's ink (H, W) is not trimmed off."""
    return ink > min(TRIM, 0.5 * ink.max())


def place_garment(ink: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The figure scaled to fill the field and centred by its box: (h, w) in [0, 1] -> `size` (H, W) in [0, 1]."""
    figure = _scale(ink[bounding_box(garment_mask(ink))], min(size))
    return _place(figure, size, [side / 2 for side in figure.shape])
