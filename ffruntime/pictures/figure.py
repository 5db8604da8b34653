"""Where the figure is in a picture: what was written, told from paper, shadows, rulings, frames and tables.

As a document scanner does it. On an even background, ink is what differs from it. Where the background is not even,
it is estimated in every place by a grey closing, which a shadow or a table passes unchanged and a stroke does not
(the black top-hat: Serra, Image Analysis and Mathematical Morphology, 1982). Rulings are taken out; of connected
strokes, those that touch the border or are none are set aside, and the others are grouped into figures.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import NamedTuple

import numpy as np

from .contrast import CONTRAST, from_even_background, on_even_background
from .placing import box_of
from .strokes import Box, Strokes, closing, connected, gap, holds_square, near, reconstructed

GREY = np.array([[0.299], [0.587], [0.114]], np.float32)  # of red, green and blue (ITU-R BT.601)
LEAST = 0.1  # of a picture: less is no background to tell by, but the edges of strokes
EVEN = 0.15  # of the strongest ink: a background that differs less from one colour is even
LEVEL = 0.5  # of the strongest ink: what has more is a stroke
DARKEST = 0.2  # of full scale: a background that is darker counts as if it were this, against noise
WIDEST = 0.3  # of the picture's longer side: no stroke is wider, and no shadow or table within it narrower
DEVIATION = 1.4826  # standard deviations of normal noise in a median absolute deviation
UNSMOOTHED = 2.65  # the deviation of white noise that `smooth` was applied to, over what a second time takes of it
SLANT = 0.1  # of edges of shadows and tables, against the picture's
SMALLEST = 0.03  # of the picture's longer side, and `FEWEST` pixels: nothing smaller is a figure
FEWEST = 4
AREA = 0.6  # of its own longer side: what holds a square so large is no stroke
BROAD, FULL = 0.4, 0.72  # what is so broad, of its longer side, and fills so much of its box is no stroke, either
OTHER = 0.4  # of the largest stroke's longer side: what is larger is no part or speck, but a figure
TOUCHING, BESIDE, ABOVE = 0.08, 0.2, 0.35  # of the larger one's longer side: gaps between strokes of a figure
COLUMN = 2  # times their width: two strokes, one above the other, that together are so high are two figures
PART = 0.4  # of a figure's longer side: a gap between it and a smaller part of it
TIGHT, NARROW = 0.6, 0.25  # of the picture's sides: what touches the border, and is so large, is cut out tightly
TINY = 40  # pixels a side: a picture that is no larger is all figure
MANY = 12  # figures: so many are no writing
STRIKING = 2  # times what the background has, in its 95th percentile: less is noise
FAINTER = 4  # times that what is strongest is set aside to look for something fainter
RULED = 0.6  # of the picture's width: a straight line that is longer is a ruling
SLOPES = np.linspace(-0.15, 0.15, 61)  # of rulings

NONE = "no figure in it, all of it looks like background"
UNCLEAR = "cannot tell a figure from the background; show it on plain paper, in even light"
CUT = "what looks like a figure is cut by the border; show all of it, with paper around"


class Figure(NamedTuple):
    """What is taken for one figure."""

    ink: np.ndarray  # how much of each pixel is ink: (H, W) in [0, 1], 0 around the figure
    box: Box


class Found(NamedTuple):
    """The figures of a picture, from left to right; where there is none, why."""

    figures: tuple[Figure, ...]
    more: bool = False  # something else was set aside that is as large, or stronger
    why: str = ""


def find(channels: np.ndarray, paper: np.ndarray) -> Found:
    """The figures in a picture: channels (H, W, C) and the same on white paper, RGB float32 (H, W, 3), in
    [0, 1]."""
    if max(channels.shape[:2]) <= TINY:
        ink = from_even_background(channels)
        return Found((Figure(ink, box_of(ink > LEVEL * ink.max())),)) if ink.any() else Found((), why=NONE)
    ink = on_even_background(channels)
    peak = float(ink.max())
    strong = ink > LEVEL * peak
    rest = background_ink(ink, strong, 99)
    if peak >= CONTRAST and (rest <= EVEN * peak or is_noise(rest, strong, smooth(channels))):
        found = select(ink, floor=0.0 if rest <= 1 / 255 else max(1.25 * rest, 0.1 * peak))
        if found.figures and not found.more:
            return found
    colours = smooth(paper)
    found = on_any_background(colours @ GREY)
    if found.figures or (paper == paper[..., :1]).all():
        return found
    return on_any_background(colours)


def is_noise(rest: float, strong: np.ndarray, smoothed: np.ndarray) -> bool:
    """Whether what an even background has left of ink beside the strokes, `rest`, is noise: smoothing the picture
    (H, W, C) takes half of it and more, of a shadow next to nothing."""
    ink = on_even_background(smoothed)
    return background_ink(ink, strong, 99) <= min(EVEN * float(ink.max()), rest / 2)


def on_any_background(colours: np.ndarray) -> Found:
    """Figures that are darker than what is around them, or lighter: (H, W, C)."""
    dark, background = darker(colours)
    if not dark.figures:
        light, _ = darker(1 - colours)
        return light if light.figures else dark
    ink = np.any([figure.ink > 0 for figure in dark.figures], axis=0)
    without = np.where(near(ink, 2)[..., None], background, colours)
    light, behind = darker(1 - without)  # what is light, and not only what is between dark strokes
    if weight(light, 1 - without, behind) > weight(dark, colours, background):
        return darker(1 - colours)[0]
    return dark


def darker(colours: np.ndarray) -> tuple[Found, np.ndarray]:
    """The figures that are darker than what is around them: (H, W, C), and that background: (H, W, C)."""
    background = local_background(colours)
    return select(*on_uneven_background(colours, background)), background


def weight(found: Found, colours: np.ndarray, background: np.ndarray) -> float:
    """Size times contrast of the most striking figure."""
    contrast = (background - colours).max(axis=-1)
    return max(
        (
            max(f.box[2] - f.box[0], f.box[3] - f.box[1]) * float(np.percentile(contrast[f.ink > LEVEL], 90))
            for f in found.figures
        ),
        default=0.0,
    )


# --- ink: how far each pixel is from the background


def local_background(colours: np.ndarray) -> np.ndarray:
    """What is around dark strokes in every place: (H, W, C) -> (H, W, C). A square does not reach all along the
    slanting edge of a dark area: what it leaves there is given back."""
    reach = max(3, round(WIDEST * max(colours.shape[:2])))
    return reconstructed(closing(colours, reach), colours, round(SLANT * reach))


def on_uneven_background(colours: np.ndarray, background: np.ndarray) -> tuple[np.ndarray, float]:
    """By which share each pixel is darker than its background: (H, W, C) -> (H, W) in [0, 1], and what is noise of
    it. A share, not a difference, is the same in the light and in the shade."""
    ink = ((background - colours) / np.maximum(background, DARKEST)).max(axis=-1)
    ink = ink - np.median(ink)  # a closing lies above the noise of what it closes
    grain = float(np.median(np.abs(colours - smooth(colours)))) / max(float(np.median(background)), DARKEST)
    noise = max(6 * DEVIATION * float(np.median(np.abs(ink))), 12 * DEVIATION * UNSMOOTHED * grain)
    ink = ink.clip(0, None)
    level = max(noise, 0.3 * float(ink.max()))
    return without_rulings(without_rulings(ink, level).T, level).T, noise


def smooth(values: np.ndarray) -> np.ndarray:
    """Each pixel with its neighbours, by 1 : 2 : 1 both ways: (H, W, C) -> (H, W, C)."""
    for axis in (0, 1):
        pads = [(0, 0)] * values.ndim
        pads[axis] = (1, 1)
        padded = np.moveaxis(np.pad(values, pads, "edge"), axis, 0)
        values = np.moveaxis((padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4, 0, axis)
    return values


def background_ink(ink: np.ndarray, strong: np.ndarray, percentile: float) -> float:
    """What a background has of ink (H, W), in that percentile; 0 where almost all is near strokes: mask (H, W)."""
    rest = ink[~near(strong, max(1, round(0.06 * max(ink.shape))))]
    return float(np.percentile(rest, percentile)) if rest.size > LEAST * ink.size else 0.0


def without_rulings(ink: np.ndarray, level: float) -> np.ndarray:
    """Ink without straight thin lines that cross the picture from left to right: three or more of them, or from
    border to border. A pixel of a line keeps what is both above and below it, where a stroke crosses."""
    height, width = ink.shape
    y, x = np.nonzero(ink > level)
    across = x - width // 2
    margin = math.ceil(SLOPES[-1] * width)
    counts = [
        np.bincount(np.rint(y - s * across).astype(int) + margin, minlength=height + 2 * margin) for s in SLOPES
    ]
    best = int(np.argmax([(count.astype(float) ** 2).sum() for count in counts]))
    lines = _bands(counts[best] >= RULED * width, max(3, round(0.012 * max(ink.shape))))
    ends = np.abs(across) > 0.47 * width
    at_ends = np.bincount(
        np.rint(y - SLOPES[best] * across).astype(int)[ends] + margin, minlength=height + 2 * margin
    )
    if len(lines) < 3:
        lines = [(top, bottom) for top, bottom in lines if at_ends[top:bottom].max() >= 0.05 * width]
    columns = np.arange(width)
    shift = np.rint(SLOPES[best] * (columns - width // 2)).astype(int) - margin
    result = ink
    for top, bottom in lines:
        result = result.copy() if result is ink else result
        above, below = (np.clip(row + shift, 0, height - 1) for row in (top - 3, bottom + 2))
        kept = np.minimum(ink[above, columns], ink[below, columns])
        for row in range(top - 2, bottom + 2):
            at = row + shift
            there = (at >= 0) & (at < height)
            at, where = at[there], columns[there]
            result[at, where] = np.minimum(result[at, where], kept[there])
    return result


def _bands(marked: np.ndarray, thickest: int) -> list[tuple[int, int]]:
    """Runs of True that are no longer than `thickest`: (n,) -> first and behind the last."""
    edges = np.diff(np.pad(marked, 1).astype(np.int8))
    runs = zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True)
    return [(first, end) for first, end in runs if end - first <= thickest]


# --- strokes: which of the ink is a figure


def select(ink: np.ndarray, floor: float) -> Found:
    """The figures of some ink (H, W), of which what is below `floor` is noise. The strongest comes first; where
    none of that is a figure, it is set aside with what is around it, and what is fainter comes next."""
    left, cut = ink, False
    for _ in range(FAINTER):
        peak = float(left.max())
        if peak < max(CONTRAST, floor):
            break
        strong = left > LEVEL * peak
        if peak < STRIKING * background_ink(left, strong, 95):
            break
        strokes = linked(left, strong, peak, floor)
        groups, is_cut = figures_of(strokes)
        cut = cut or is_cut
        if len(groups) >= MANY:
            return Found((), why=UNCLEAR)
        if groups:
            figures = [_figure(left, strokes, group, floor) for group in groups]
            figures.sort(key=lambda figure: figure.box[0])
            return Found(tuple(figures), left is not ink or _is_more(strokes, groups))
        left = np.where(near(strong, max(2, round(0.02 * max(ink.shape)))), 0, left)
    return Found((), why=CUT if cut else NONE)


def linked(ink: np.ndarray, strong: np.ndarray, peak: float, floor: float) -> Strokes:
    """Strokes, with the faint places that hold them together."""
    link = min(max(0.25 * peak, floor, 1.5 * background_ink(ink, strong, 99)), LEVEL * peak)
    strokes = connected(ink > link)
    return connected(np.isin(strokes.labels, np.unique(strokes.labels[strong])) & (ink > link))


def figures_of(strokes: Strokes) -> tuple[list[list[int]], bool]:
    """Strokes in groups, each a figure; and whether something is cut by the border that could have been one."""
    height, width = strokes.labels.shape
    longer = max(height, width)
    least = max(FEWEST, SMALLEST * longer)
    sides, boxes = strokes.sides, strokes.boxes
    at_border = (boxes[:, :2] == 0).any(axis=1) | (boxes[:, 2:] == (width, height)).any(axis=1)
    large = [index for index in np.argsort(-sides).tolist() if sides[index] >= least][: 8 * MANY]
    inside = [i for i in large if not at_border[i] and not _is_area(strokes, i)]
    inside = [i for i in inside if not _is_frame(strokes, i, inside)]
    cut = [i for i in large if at_border[i] and _could_be_cut(strokes, i)]
    parts = [i for i in np.argsort(-sides).tolist() if not at_border[i]]
    if cut:
        groups = _groups(strokes, [*inside, *cut], parts)
        if len(groups) == 1 and _fills(_extent(strokes, groups[0]) / (width, height)):
            return groups, False
        if sides[cut[0]] > 2.5 * max((sides[i] for i in inside), default=0):
            return [], True
    return _groups(strokes, inside, parts), False


def _is_more(strokes: Strokes, groups: list[list[int]]) -> bool:
    """Whether there are strokes, or what is none, as large as a figure and in none of the groups."""
    largest = max(_extent(strokes, group).max() for group in groups)
    other = np.setdiff1d(np.flatnonzero(strokes.sides >= OTHER * largest), np.concatenate(groups))
    return len(other) > 0


def _extent(strokes: Strokes, group: list[int]) -> np.ndarray:
    """Width and height of the box around some strokes: (2,)."""
    boxes = strokes.boxes[group]
    extent: np.ndarray = boxes[:, 2:].max(axis=0) - boxes[:, :2].min(axis=0)
    return extent


def _fills(shares: np.ndarray) -> bool:
    """Whether a figure takes so much of the picture's width and height that it is cut out tightly."""
    return bool(shares.max() >= TIGHT and shares.min() >= NARROW)


def _is_area(strokes: Strokes, number: int) -> bool:
    """Whether something is no stroke, but as wide as it is long, or fills its box."""
    mask, side = strokes.mask(number), strokes.sides[number]
    if holds_square(mask, math.ceil(AREA * side)):
        return True
    return min(mask.shape) > BROAD * side and mask.mean() > FULL


def _groups(strokes: Strokes, candidates: list[int], parts: list[int]) -> list[list[int]]:
    """Strokes that could be a figure, in groups that each are one, with smaller `parts` that are near them."""
    sides = strokes.sides
    largest = max((sides[i] for i in candidates), default=0)
    mains = [i for i in candidates if sides[i] >= OTHER * largest]
    groups = [[i] for i in mains] if len(mains) >= MANY else _grouped(strokes, mains)
    if not groups or len(groups) >= MANY:
        return groups
    for part in [i for i in parts if sides[i] < OTHER * largest][: 2 * MANY]:
        gaps = [min(gap(strokes, part, i, PART * largest) for i in group) for group in groups]
        nearest = int(np.argmin(gaps))
        if gaps[nearest] <= PART * _extent(strokes, groups[nearest]).max():
            groups[nearest].append(part)
    return groups


def _grouped(strokes: Strokes, mains: list[int]) -> list[list[int]]:
    """Strokes of comparable size, those together that belong together."""
    groups = [[i] for i in mains]
    for one, other in combinations(mains, 2):
        if _belong_together(strokes, one, other):
            first, second = (next(group for group in groups if i in group) for i in (one, other))
            if first is not second:
                first.extend(second)
                groups.remove(second)
    return groups


def _belong_together(strokes: Strokes, one: int, other: int) -> bool:
    """Whether two strokes are parts of one figure: they almost touch; or one is near above the other, and together
    they are no column; or they are near side by side, and not both tall."""
    boxes, side = strokes.boxes, max(strokes.sides[one], strokes.sides[other])
    apart = gap(strokes, one, other, ABOVE * side)
    if apart <= TOUCHING * side:
        return True
    if max(boxes[one, 0], boxes[other, 0]) < min(boxes[one, 2], boxes[other, 2]):
        width, height = _extent(strokes, [one, other])
        return bool(apart <= ABOVE * side and height <= COLUMN * width)
    heights = [boxes[i, 3] - boxes[i, 1] for i in (one, other)]
    return bool(apart <= BESIDE * side and min(heights) < 0.7 * max(heights))


def _is_frame(strokes: Strokes, number: int, others: list[int]) -> bool:
    """Whether a stroke runs along all four sides of its box, and another one is within it."""
    mask, box = strokes.mask(number), strokes.boxes[number]
    band = max(2, round(0.06 * max(mask.shape)))
    sides = (mask[:band].any(0), mask[-band:].any(0), mask[:, :band].any(1), mask[:, -band:].any(1))
    within = any(
        (strokes.boxes[i, :2] >= box[:2]).all() and (strokes.boxes[i, 2:] <= box[2:]).all()
        for i in others
        if i != number
    )
    return within and min(side.mean() for side in sides) >= 0.75


def _could_be_cut(strokes: Strokes, number: int) -> bool:
    """Whether what touches the border is a figure that is cut, or cut out tightly; no table, shadow or edge."""
    height, width = strokes.labels.shape
    mask, longer = strokes.mask(number), max(height, width)
    if holds_square(mask, max(FEWEST, math.ceil(WIDEST * longer))):
        return False
    if _is_area(strokes, number):
        return False
    here = strokes.labels == number + 1
    contact = [edge.mean() for edge in (here[0], here[-1], here[:, 0], here[:, -1])]
    along = sum(share >= 0.8 for share in contact)
    return not (along >= 2 or (along and min(mask.shape) < WIDEST * longer))


def _figure(ink: np.ndarray, strokes: Strokes, group: list[int], floor: float) -> Figure:
    """The ink of a group of strokes, soft edges included, from `floor` to its strongest as 0 to 1."""
    boxes = strokes.boxes[group]
    (left, top), (right, bottom) = boxes[:, :2].min(axis=0).tolist(), boxes[:, 2:].max(axis=0).tolist()
    own = np.isin(strokes.labels, np.array(group) + 1)
    reach = math.ceil(0.06 * max(right - left, bottom - top) + 1)
    if not floor:  # on an even background all ink is the figure's, but for what was set aside
        others = near((strokes.labels > 0) & ~own, reach) & ~near(own, 1)
        return Figure(np.where(others, 0, ink) / ink[own].max(), (left, top, right, bottom))
    peak = float(np.percentile(ink[own], 99))
    low = min(max(floor / 2, 0.1 * peak), LEVEL * peak)
    soft = np.where(near(own, reach), ink, 0)
    return Figure(((soft - low) / (peak - low)).clip(0, 1), (left, top, right, bottom))
