"""What a person reads in a terminal of a model on a device, and pictures in half blocks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from .core.tables import table

if TYPE_CHECKING:
    import numpy as np

    from .core.manifest import Manifest
    from .golden import Check
    from .learning.versions import Current

MARKED = 64  # pixels a side, at most, of a picture that is shown with its figures
MARK = (0.85, 0.2, 0.0)  # red, green and blue of what was taken for the figure


def check_table(checks: Sequence[Check]) -> str:
    """The golden check as a table."""
    rows = [
        (
            row.graph,
            row.output,
            f"{row.max_error:.1e}",
            f"{row.relative:.1e}",
            "" if row.agree is None else f"{row.agree}/{row.decisions}",
            "ok" if row.passed else "FAILED",
        )
        for row in checks
    ]
    return table(("graph", "output", "max error", "relative", "decisions", ""), rows)


def learned_text(learned: Current, manifest: Manifest) -> str:
    """What a device has learned on a bundle; empty where that is nothing."""
    names = learned.weights.classes[len(manifest.classes) :]
    new = [f"{name} (from few examples yet)" if name in learned.weights.undertrained else name for name in names]
    if not (learned.version or names):
        return ""
    work = f"version {learned.version} (updates: {learned.updates}, examples: {learned.examples})"
    return f"{work}; new classes: {', '.join(new) or 'none'}"


def held_back_text(before: float | None, after: float | None) -> str:
    """How weights were judged: the shipped ones' share of right answers, and theirs."""
    if before is None or after is None:
        return "nothing held back to judge by"
    return f"held-back images {100 * before:.1f} % → {100 * after:.1f} %"


def draw(pixels: np.ndarray) -> str:
    """An image uint8 (1 or 3, H, W) in half blocks of 24-bit colour: two rows of pixels in a line of text."""
    colours = [["{};{};{}".format(*pixel) for pixel in row] for row in _to_rgb(pixels).tolist()]
    lines = []
    for top, bottom in zip_longest(colours[::2], colours[1::2]):
        if bottom:
            cells = (f"\x1b[38;2;{t};48;2;{b}m▀" for t, b in zip(top, bottom, strict=True))
        else:  # the last row of an odd number
            cells = (f"\x1b[38;2;{t}m▀" for t in top)
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)


def mark(paper: np.ndarray, inks: Sequence[np.ndarray]) -> np.ndarray:
    """A picture (h, w, 3) in [0, 1], made small and pale, with the ink (h, w) of its figures in a colour: uint8
    (3, h', w')."""
    import numpy as np

    step = -(-max(paper.shape) // MARKED)
    ink = np.max(inks, axis=0)[..., None]
    marked = (0.5 + paper / 2) * (1 - ink) + np.array(MARK) * ink
    pads = [(0, -side % step) for side in paper.shape[:2]] + [(0, 0)]
    padded = np.pad(marked, pads, "edge")
    height, width = (side // step for side in padded.shape[:2])
    small = padded.reshape(height, step, width, step, 3).mean(axis=(1, 3))
    return np.rint(255 * small).astype(np.uint8).transpose(2, 0, 1)


def _to_rgb(pixels: np.ndarray) -> np.ndarray:
    """(1 or 3, H, W) -> (H, W, 3)."""
    return pixels.transpose(1, 2, 0).repeat(3 // len(pixels), axis=2)


def percent(probability: float) -> str:
    """0.9912 -> `99.1 %`; never 100 %."""
    return "over 99.9 %" if probability > 0.9995 else f"{100 * probability:.1f} %"
