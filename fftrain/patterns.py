"""Label patterns: one for every class, and spare ones for classes that are not known yet.

Waves (Scodellaro et al., 2023, sets 1 and 2), noise, structuring elements that erode or dilate the image itself,
one-hot pixels in its corner or one-hot vectors above the network (Hinton, 2022), or what a file holds.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ffruntime.core.errors import UsageError
from ffruntime.core.layers import KNOWN
from ffruntime.core.reading import read_regular

from .recipe import Fourier, Morphology, NoLabel, OneHot, Overlay, PatternFile, Patterns, ReadoutRows

# Set 1 as (ky, kx), cycles per image: four orientations × three frequencies; the paper leaves the last two spare.
FOURIER_MODES = (
    (0, 6),
    (2, 0),
    (0, 4),
    (0, 2),
    (6, 0),
    (4, 0),
    (1, -1),
    (2, -2),
    (2, 2),
    (1, 1),
    (3, 3),
    (3, -3),
)
LARGEST = 1 << 28  # bytes of a .npy file
REACH = 8  # cycles per image, in either direction, up to which set 1 is continued: 144 modes in all


def fourier_modes(count: int, height: int, width: int) -> list[tuple[int, int]]:
    """So many modes (ky, kx) of set 1: the published ones, then the others up to `REACH`, lowest frequencies first.

    No wave comes twice: of (ky, kx) and (−ky, −kx), the same cosine, one is taken, and none that the pixels are too
    few for. Raises `UsageError` below 13 pixels a side, and beyond 144 patterns (fewer below 17 pixels).
    """
    reach = min(REACH, (min(height, width) - 1) // 2)
    if reach < max(max(mode) for mode in FOURIER_MODES):
        raise UsageError(f"patterns: set 1 needs at least 13 pixels a side, not {height} × {width}")
    half_plane = {(ky, kx) for ky in range(reach + 1) for kx in range(-reach, reach + 1) if (ky, kx) > (0, 0)}
    further = sorted(half_plane - set(FOURIER_MODES), key=lambda mode: (mode[0] ** 2 + mode[1] ** 2, mode))
    modes = [*FOURIER_MODES, *further]
    if count > len(modes):
        raise UsageError(
            f"patterns: set 1 has {len(modes)} waves on {height} × {width} pixels, and {count} are needed; "
            "try set = 2 or kind = 'random'"
        )
    return modes[:count]


def fourier_directions(count: int, frequency: float, height: int, width: int) -> list[tuple[float, float]]:
    """Set 2: waves (ky, kx) of one frequency in `count` equidistant orientations over [0°, 180°)."""
    if 2 * frequency >= min(height, width):
        raise UsageError(f"patterns: {height} × {width} pixels cannot show a frequency of {frequency:g}; lower it")
    angles = [math.pi * index / count for index in range(count)]
    return [(frequency * math.sin(angle), frequency * math.cos(angle)) for angle in angles]


def fourier_waves(modes: Sequence[tuple[float, float]], height: int, width: int) -> Tensor:
    """(len(modes), 1, height, width): waves in [0, 1], ky cycles down the image and kx across it."""
    y = torch.arange(height, dtype=torch.float64)[:, None] / height
    x = torch.arange(width, dtype=torch.float64)[None, :] / width
    waves = [(1 + torch.cos(2 * math.pi * (ky * y + kx * x))) / 2 for ky, kx in modes]
    return torch.stack(waves)[:, None].float()  # (P, 1, H, W)


def lines(count: int, radius: int) -> list[tuple[int, int]]:
    """So many different lines through the centre of a window, each by its end (dy, dx); the other end is opposite.

    The longest come first, those that end on the window's edge, which is 4 · radius of them; then those one pixel
    shorter, and so on. Where not all of a length are needed, their orientations are spread evenly.
    """
    ends: list[tuple[int, int]] = []
    for r in range(radius, 0, -1):
        taken = min(count - len(ends), 4 * r)
        turns = [index * 4 * r // taken for index in range(taken)]  # of 4 r steps from 0° to 180°
        ends += [(min(turn, r, 4 * r - turn), max(-r, min(r, 2 * r - turn))) for turn in turns]
    return ends


def structuring_elements(count: int, size: int) -> Tensor:
    """(count, 1, size, size): lines through the centre, +1 where they dilate and −1 where they erode, by turns.

    Patterns 0 and 1 dilate and erode along one line, 2 and 3 along the next, and so on (`lines`). Scodellaro et al.
    (2025) label natural images by class-specific erosion and dilation, by a formula that is not known here: this
    one is ours. Raises `UsageError` where the window has fewer than `count` elements.
    """
    radius = size // 2
    if size % 2 == 0:
        raise UsageError(f"patterns: a window of {size} pixels has no centre; choose an odd size")
    most = size**2 - 1  # two ways × 4 r lines for r = 1 … radius
    if count > most:
        raise UsageError(f"patterns: {count} elements are needed, and size = {size} has {most}; raise the size")
    elements = torch.zeros(count, 1, size, size)
    ends = lines((count + 1) // 2, radius)
    for index, element in enumerate(elements[:, 0]):
        dy, dx = ends[index // 2]
        length = max(abs(dy), abs(dx))
        for step in range(-length, length + 1):
            row, column = round(dy * step / length), round(dx * step / length)
            element[radius + row, radius + column] = -1 if index % 2 else 1
    return elements


def identity_element(size: int) -> Tensor:
    """(1, size, size): the centre alone, which leaves an image as it is."""
    element = torch.zeros(1, size, size)
    element[0, size // 2, size // 2] = 1
    return element


def one_hot_pixels(count: int, height: int, width: int) -> Tensor:
    """(count, 1, height, width): pattern i is 1 in pixel i, counted row by row, and 0 elsewhere.

    Raises `UsageError` where there are fewer pixels than patterns.
    """
    if count > height * width:
        raise UsageError(f"patterns: {height} × {width} pixels cannot show {count} of them one-hot")
    return torch.eye(count, height * width).view(count, 1, height, width)


def read_patterns(kind: PatternFile, shape: tuple[int, ...]) -> Tensor:
    """The patterns in a file, of that shape. Raises `UsageError` where it holds none."""
    try:
        data = read_regular(Path(kind.path), LARGEST)
        array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # numpy lets go of anything that its parser of headers meets
        raise UsageError(f"patterns: {kind.path}: no .npy file that can be read: {error}") from error
    if array.shape != shape or array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise UsageError(f"patterns: {kind.path}: must hold finite numbers of shape {shape}")
    return torch.from_numpy(array.astype(np.float32))


def make_patterns(kind: Patterns, classes: int, height: int, width: int) -> dict[str, Tensor]:
    """The label tensors of a bundle, for `classes` classes and the spare ones that `kind` asks for: P in all.

    `labels.patterns` (P, Q, H, W), classes first; `labels.neutral` (Q, H, W), the mean of the classes' patterns;
    `labels.keep` (1, H, W), the image's share: 1 − K beside waves, all of it beside noise and patterns of a file,
    nothing of the P pixels that an overlay replaces. Of morphological labels, patterns and neutral are structuring
    elements of `size` pixels a side instead, the neutral one the identity, and 1 − K is the share of the image that
    is neither eroded nor dilated. One-hot vectors are (P, P), and the neutral one (P,). Of class goodness there is
    `labels.known` (P,) alone: 1 for the rows of classes, 0 for the spare ones. Raises `UsageError` where there are
    fewer patterns than that, or a file holds others.
    """
    count = classes + kind.spare
    if isinstance(kind, ReadoutRows):
        return {KNOWN: (torch.arange(count) < classes).float()}
    kept = torch.ones(1, height, width)
    if isinstance(kind, Morphology):
        patterns, kept = structuring_elements(count, kind.size), kept * (1 - kind.intensity)
    elif isinstance(kind, Fourier):
        if kind.set == 1:
            waves = fourier_waves(fourier_modes(count, height, width), height, width)
        else:
            waves = fourier_waves(fourier_directions(count, kind.frequency, height, width), height, width)
        patterns, kept = kind.intensity * waves, kept * (1 - kind.intensity)
    elif isinstance(kind, Overlay):
        patterns = one_hot_pixels(count, height, width)
        kept = 1 - patterns.sum(0)
    elif isinstance(kind, PatternFile):
        patterns = read_patterns(kind, (count, kind.channels, height, width))
    elif isinstance(kind, OneHot):
        patterns = torch.eye(count)
    elif isinstance(kind, NoLabel):
        patterns = torch.zeros(count, 1, height, width)
    else:
        generator = torch.Generator().manual_seed(kind.seed)
        patterns = torch.randn(count, kind.channels, height, width, generator=generator)
    neutral = identity_element(kind.size) if isinstance(kind, Morphology) else patterns[:classes].mean(0)
    return {"labels.patterns": patterns, "labels.neutral": neutral, "labels.keep": kept}
