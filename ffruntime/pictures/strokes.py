"""Connected strokes of a mask, in numpy alone: which pixels hang together, how large and how thick they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

Box: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom, in pixels
Extreme: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]  # np.minimum or np.maximum


class Strokes(NamedTuple):
    """Components of a mask, numbered from 1 on in `labels` (H, W), where 0 is none; row i of the others is number
    i + 1."""

    labels: np.ndarray  # int (H, W)
    boxes: np.ndarray  # left, top, right, bottom: int (N, 4)
    areas: np.ndarray  # pixels: int (N,)

    @property
    def sides(self) -> np.ndarray:
        """The longer side of each one's box: (N,)."""
        return (self.boxes[:, 2:] - self.boxes[:, :2]).max(axis=1)

    def mask(self, number: int) -> np.ndarray:
        """The pixels of row `number` within its box: mask (h, w)."""
        left, top, right, bottom = self.boxes[number]
        return self.labels[top:bottom, left:right] == number + 1


def connected(mask: np.ndarray) -> Strokes:
    """Components of 8-connected pixels: mask (H, W) -> `Strokes`.

    By runs of pixels in each row: two that touch get the lesser of their numbers until nothing changes, numbers of
    numbers being followed at once (He, Ren, Gao, Zhao, Yao, Chao 2017, on run-based labelling).
    """
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, start = np.nonzero(edges == 1)
    end = np.nonzero(edges == -1)[1]
    wide = mask.shape[1] + 2
    first = np.searchsorted(row * wide + end, (row + 1) * wide + start, "left")  # runs of the next row that do not
    last = np.searchsorted(row * wide + start, (row + 1) * wide + end, "right")  # end before, or begin behind it
    count = np.maximum(last - first, 0)
    above = np.repeat(np.arange(len(row)), count)
    below = np.repeat(first - np.cumsum(count) + count, count) + np.arange(count.sum())
    number = np.arange(len(row))
    while (number[above] != number[below]).any():
        a, b = number[above], number[below]
        np.minimum.at(number, np.maximum(a, b), np.minimum(a, b))
        while (number[number] != number).any():
            number = number[number]
    _, number = np.unique(number, return_inverse=True)
    total = int(number.max()) + 1 if len(number) else 0
    labels = np.zeros(mask.shape, np.int32)
    labels[mask] = np.repeat(number + 1, end - start)
    boxes = np.tile(np.array([*mask.shape[::-1], 0, 0]), (total, 1))
    boxes[:, 1] = mask.shape[0]
    np.minimum.at(boxes[:, 0], number, start)
    np.minimum.at(boxes[:, 1], number, row)
    np.maximum.at(boxes[:, 2], number, end)
    np.maximum.at(boxes[:, 3], number, row + 1)
    return Strokes(labels, boxes, np.bincount(number, end - start, total).astype(int))


def window(values: np.ndarray, side: int, extreme: Extreme) -> np.ndarray:
    """The least or greatest value in each square of `side` pixels that lies within: (H, W, …) -> (H - side + 1,
    W - side + 1, …)."""
    for axis in (0, 1):
        values, reach = np.moveaxis(values, axis, 0), 1
        while reach < side:  # an extreme of two windows that overlap is that of both
            step = min(reach, side - reach)
            values, reach = extreme(values[:-step], values[step:]), reach + step
        values = np.moveaxis(values, 0, axis)
    return values


def near(mask: np.ndarray, reach: int) -> np.ndarray:
    """The pixels of a mask (H, W), and those at most `reach` pixels away, both ways."""
    return window(np.pad(mask, reach), 2 * reach + 1, np.logical_or)


def closing(values: np.ndarray, side: int) -> np.ndarray:
    """What is dark and holds no square of `side` pixels, filled with what is around it: (H, W, …) -> the same.

    Beyond its edges the picture goes on as it is there.
    """
    pads = [(side - 1, side - 1)] * 2 + [(0, 0)] * (values.ndim - 2)
    return window(window(np.pad(values, pads, "edge"), side, np.maximum), side, np.minimum)


def reconstructed(closed: np.ndarray, values: np.ndarray, steps: int) -> np.ndarray:
    """A closing of some values, and what is dark there and hangs together with what it left dark, as far as so many
    pixels: (H, W, …) -> the same (a geodesic erosion: Vincent 1993)."""
    for _ in range(steps):
        pads = [(1, 1)] * 2 + [(0, 0)] * (values.ndim - 2)
        closed = np.maximum(window(np.pad(closed, pads, "edge"), 3, np.minimum), values)
    return closed


def holds_square(mask: np.ndarray, side: int) -> bool:
    """Whether a square of `side` pixels fits into a mask (h, w)."""
    if min(mask.shape) < side:
        return False
    sums = np.pad(mask, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return bool((inside >= 0.97 * side * side).any())


def gap(strokes: Strokes, one: int, other: int, most: float) -> float:
    """Pixels between two components, from edge to edge; infinite where even their boxes are farther than `most`."""
    (left, top, right, bottom), there = strokes.boxes[one], strokes.boxes[other]
    if max(there[0] - right, left - there[2], there[1] - bottom, top - there[3]) > most:
        return np.inf
    first, second = (_outline(strokes, number) for number in (one, other))
    return float(np.sqrt(((first[:, None] - second[None]) ** 2).sum(axis=-1).min()) - 1)


def _outline(strokes: Strokes, number: int) -> np.ndarray:
    """Pixels at the edge of a component, at most some hundreds of them: (n, 2)."""
    mask = strokes.mask(number)
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    points = np.argwhere(mask & ~inner) + strokes.boxes[number, 1::-1]
    return points[:: 1 + len(points) // 300]
