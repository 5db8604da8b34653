"""How far each pixel is from a background that is even, or shaded evenly; and garments on such a one."""

from __future__ import annotations

import numpy as np

from .placing import box_of, garment_mask

CONTRAST = 0.03  # of full scale: less than this is an empty picture
CLEAN = 0.004  # of full scale, one grey level of 255: no surface is fitted to a background this even
CUT, ROOM = 0.1, 0.02  # of a side: so much of a garment at one border, and so much room at the opposite one


def _border(channels: np.ndarray) -> np.ndarray:
    """The outermost pixels: (H, W, C) -> (n, C)."""
    return np.concatenate([channels[0], channels[-1], channels[:, 0], channels[:, -1]])


def _even_border(deviation: np.ndarray) -> np.ndarray:
    """Which pixels of the border are background, less the figure where it touches them: mask (H, W)."""
    edge = np.ones(deviation.shape, bool)
    edge[1:-1, 1:-1] = False
    return edge & (deviation <= max(0.1 * deviation.max(), 6 * np.median(deviation[edge])))


def on_even_background(channels: np.ndarray) -> np.ndarray:
    """How far each pixel is from the border's median, dark or light: (H, W, C) -> (H, W) in [0, 1]."""
    ink: np.ndarray = np.abs(channels - np.median(_border(channels), axis=0)).max(axis=-1)
    return ink


def from_even_background(channels: np.ndarray) -> np.ndarray:
    """How far each pixel is from the background: (H, W, C) -> (H, W) in [0, 1], 0 is background.

    The background is the median of the picture's border, so it may be light, dark or coloured; where
    the border is uneven (noise, shading, dark corners), the quadratic surface through it. What the border
    still deviates from that is taken for background everywhere.
    """
    ink = on_even_background(channels)
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
    if peak < max(CONTRAST, 3.5 * ripple):
        return np.zeros_like(ink)
    floor = max(1.25 * ripple, 0.1 * peak) if ripple > CLEAN else 0.0
    return np.clip((ink - floor) / (peak - floor), 0, 1)


def garment_ink(grey: np.ndarray) -> np.ndarray:
    """How far each pixel's grey is from the background's: (H, W) in [0, 1] -> the same.

    1 is as far as a grey can be from that background: black on light paper, white on dark.
    """
    background = np.median(_border(grey[..., None]))
    reach = np.abs(grey - background).max() / max(background, 1 - background)
    return from_even_background(grey[..., None]) * reach


def is_cut(ink: np.ndarray) -> bool:
    """Whether a garment (H, W) goes on beyond a border: much of it is at one, and there is room at the opposite.
    What is at both is cut out tightly."""
    mask = garment_mask(ink)
    left, top, right, bottom = box_of(mask)
    height, width = ink.shape
    ends = (mask[0], height - bottom), (mask[-1], top), (mask[:, 0], width - right), (mask[:, -1], left)
    return any(edge.mean() > CUT and free > ROOM * max(height, width) for edge, free in ends)
