"""A picture of labels, as Scodellaro et al. show theirs: the patterns, and an image that carries each of them."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from msgspec import Struct

from ffruntime.core.architecture import Network

from .plots import SIGNED

GAP = 2  # white pixels between cells
INCHES = 0.85  # the width of a cell


class Row(Struct, frozen=True):
    """What stands beside a row, and its cells, (H, W, 3) in [0, 1], all of one size."""

    title: str
    cells: np.ndarray  # (columns, H, W, 3)


def pattern_cells(network: Network, patterns: np.ndarray) -> np.ndarray:
    """Patterns (N, Q, H, W), from the least value, black, to the greatest, white: (N, Q · H, W, 3).

    Structuring elements are as large as the image instead: orange where they dilate, purple where they erode.
    """
    if network.label.placement == "morphology":
        enlarged = patterns[:, 0].repeat(max(1, network.image.shape[1] // network.label.element), 1)
        enlarged = enlarged.repeat(max(1, network.image.shape[2] // network.label.element), 2)
        return np.asarray(SIGNED(0.5 + 0.35 * enlarged))[..., :3]
    return _stacked(_grey(_spread(patterns)))


def input_cells(network: Network, inputs: np.ndarray) -> np.ndarray:
    """What the first unit receives (N, C', H, W): the image in its colours, further channels below it.

    From the least value of all, black, to the greatest, white: (N, H', W, 3).
    """
    x, colours = _spread(inputs), network.image.shape[0]
    image = np.moveaxis(x[:, :3], 1, -1)[:, None] if colours == 3 else _grey(x[:, :colours])
    return _stacked(np.concatenate([image, _grey(x[:, colours:])], axis=1))


def _spread(values: np.ndarray) -> np.ndarray:
    return (values - values.min()) / (np.ptp(values) or 1)


def _grey(x: np.ndarray) -> np.ndarray:
    return x[..., None].repeat(3, -1)  # (N, C, H, W, 3)


def _stacked(x: np.ndarray) -> np.ndarray:
    n, c, h, w, colours = x.shape
    return x.reshape(n, c * h, w, colours)


def label_png(columns: Sequence[str], rows: Sequence[Row]) -> bytes:
    """The rows under each other as a PNG file, a name above every column."""
    heights = [row.cells.shape[1] / row.cells.shape[2] for row in rows]  # in cells' widths
    width, height = INCHES * len(columns) + 0.9, (INCHES + 0.05) * sum(heights) + 0.3
    layout = ConstrainedLayoutEngine(h_pad=0.02, w_pad=0.02, hspace=0, wspace=0)
    figure = Figure(figsize=(width, height), layout=layout, dpi=120)
    panels = figure.subplots(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
    for row, axes in zip(rows, panels, strict=True):
        padded = np.pad(row.cells, ((0, 0), (0, 0), (0, GAP), (0, 0)), constant_values=1)
        step = padded.shape[2]
        axes.imshow(np.concatenate(padded, axis=1), interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(row.title, rotation=0, ha="right", va="center")
        axes.spines[:].set_visible(False)
        if row is rows[0]:
            centres = [(index + 0.5) * step - GAP / 2 for index in range(len(columns))]
            axes.set_xticks(centres, columns)
            axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
