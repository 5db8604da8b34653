"""Drawing: diagrams as SVG that takes its text colour from the page around it; images, filters, maps and labels as
PNG files.

Line colours are Okabe and Ito's and come with a line style, so that they can be told apart without colour vision,
on light and on dark. Signed figures are orange (for, positive) and purple (against, negative).
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from msgspec import Struct
from PIL import Image

from ffruntime.core.architecture import Network

if TYPE_CHECKING:  # a sweep's figure is drawn without torch
    from .evaluation import Bin

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("-", "--", ":", "-.")
SIGNED = matplotlib.colormaps["PuOr_r"]  # ColorBrewer's: purple, white, orange
INK = "#010203"  # stands for the text colour of the page
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "ffedge",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "legend.frameon": False,
    "legend.fontsize": 9,
}

GAP = 2  # white pixels between the cells of a row of images
INCHES = 0.85  # the width of such a cell

Curve = Sequence[float | None]  # a value for each epoch, None where there is none


def _svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as an `<svg>` element for a page: `name` keeps its ids apart, `alt` says what is to be seen."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = re.sub(r"<metadata>.*?</metadata>", "", text.getvalue()[text.getvalue().index("<svg") :], flags=re.S)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg).replace(INK, "currentColor")
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box
    head = f'<svg {box.group()} role="img" aria-label="{escape(alt)}">'
    return head + svg[svg.index(">") + 1 :]


def curves_svg(name: str, title: str, curves: Mapping[str, Curve], shares: bool = False) -> str:
    """Curves by name over the epochs. `shares`: they are in [0, 1] and drawn as percentages."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 3.0), layout="constrained")
        axes = figure.subplots()
        for number, (label, curve) in enumerate(curves.items()):
            points = [math.nan if value is None else value for value in curve]
            axes.plot(
                range(1, len(points) + 1),
                points,
                LINES[number // len(OKABE_ITO) % len(LINES)] if len(curves) > len(OKABE_ITO) else LINES[number % 4],
                color=OKABE_ITO[number % len(OKABE_ITO)],
                marker="o" if len(points) <= 30 else None,
                markersize=3,
                label=label,
            )
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if shares:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        elif _spans_decades(curves):
            axes.set_yscale("log")
        axes.legend(ncols=1 + len(curves) // 7)
        said = [f"{label} {_first_and_last(curve, shares)}" for label, curve in curves.items()]
        return _svg(figure, name, f"{title} by epoch: {'; '.join(said)}")


def _spans_decades(curves: Mapping[str, Curve]) -> bool:
    values = [value for curve in curves.values() for value in curve if value is not None and math.isfinite(value)]
    return bool(values) and min(values) > 0 and max(values) > 50 * min(values)


def _first_and_last(curve: Curve, shares: bool) -> str:
    values = [value for value in curve if value is not None]
    if not values:
        return "has no values"
    first, last = (f"{100 * v:.2f} %" if shares else f"{v:.3g}" for v in (values[0], values[-1]))
    return f"from {first} to {last}"


def reliability_svg(name: str, title: str, bins: Mapping[str, Sequence[Bin]]) -> str:
    """Accuracy over probability, for one or two modes; an area shows how many images it stands for."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=INK, alpha=0.35, linewidth=1)
        for number, (mode, row) in enumerate(bins.items()):
            some = [b for b in row if b.count]
            answers = sum(b.count for b in some) or 1
            sure, right = [b.probability for b in some], [b.accuracy for b in some]
            axes.plot(sure, right, LINES[number], color=OKABE_ITO[number], linewidth=0.8)
            area = [20 + 200 * b.count / answers for b in some]
            axes.scatter(
                sure, right, area, color=OKABE_ITO[number], marker="os"[number], alpha=0.7, linewidths=0, label=mode
            )
        axes.set(title=title, xlabel="probability", ylabel="right", xlim=(-0.02, 1.04), ylim=(-0.04, 1.08))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0))
        axes.legend(loc="upper left", markerscale=0.5)
        return _svg(figure, name, f"{title}: share of right answers over probability, by mode")


def png(pixels: np.ndarray) -> bytes:
    """uint8 (H, W), or (H, W, 3 or 4), as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def to_picture(image: np.ndarray) -> np.ndarray:
    """An image (C, H, W) -> (H, W, 3) where it has colours, else (H, W), the mean of its channels."""
    return np.moveaxis(image, 0, -1) if len(image) == 3 else image.mean(axis=0).astype(image.dtype)


def grey_png(values: np.ndarray) -> bytes:
    """Any values (H, W), least to most as black to white."""
    spread = np.ptp(values) or 1
    return png((255 * (values - values.min()) / spread).astype(np.uint8))


def signed_png(values: np.ndarray, most: float) -> bytes:
    """Values (H, W) from −`most` (purple) over 0 (white) to `most` (orange); NaN is transparent."""
    colours = SIGNED(np.ma.masked_invalid(0.5 + values / (2 * most or 1)))
    return png((255 * colours).astype(np.uint8))


def mosaic(tiles: np.ndarray) -> np.ndarray:
    """Tiles (N, h, w) -> one picture of them in rows, about twice as wide as high, NaN between them."""
    n, h, w = tiles.shape
    columns = min(n, math.ceil(math.sqrt(2 * n)))
    rows = math.ceil(n / columns)
    padded = np.full((rows * columns, h + 1, w + 1), np.nan)
    padded[:n, :h, :w] = tiles
    grid = padded.reshape(rows, columns, h + 1, w + 1).transpose(0, 2, 1, 3)
    return grid.reshape(rows * (h + 1), columns * (w + 1))[:-1, :-1]


def confusion_png(matrix: np.ndarray) -> bytes:
    """Counts (C, C) -> a pixel each: right answers blue, mistakes vermilion, the fainter the fewer, none clear."""
    right = np.eye(len(matrix), dtype=bool)
    pixels = np.zeros((*matrix.shape, 4), np.uint8)
    for cells, colour in ((right, OKABE_ITO[0]), (~right, OKABE_ITO[1])):
        most = max(matrix[cells].max(initial=0), 1)
        pixels[cells, :3] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        pixels[cells, 3] = 255 * np.sqrt(matrix[cells] / most)
    return png(pixels)


class Explained(Struct, frozen=True):
    """One label's row in an explanation: its score, and the signed maps (H, W) by title, all of one image."""

    title: str
    score: str  # in words
    maps: dict[str, np.ndarray]
    totals: dict[str, float]  # what each map adds up to


def explanation_png(image: np.ndarray, rows: Sequence[Explained]) -> bytes:
    """An image uint8 (C, H, W) and a row for each label: the image, then each map drawn over it.

    The maps of a column share one scale, so that labels can be compared.
    """
    titles = list(rows[0].maps)
    with matplotlib.rc_context({"font.size": 10}):
        figure = Figure(figsize=(2.2 * (1 + len(titles)), 2.45 * len(rows) + 0.75), layout="constrained", dpi=160)
        grid = figure.subplots(len(rows), 1 + len(titles), squeeze=False)
        for row, axes in zip(rows, grid, strict=True):
            _picture(axes[0], to_picture(image))
            axes[0].set_ylabel(row.title, fontsize=12, fontweight="bold", rotation=0, ha="right", va="center")
            axes[0].set_xlabel(row.score)
            for title, panel in zip(titles, axes[1:], strict=True):
                most = max(np.abs(other.maps[title]).max() for other in rows)
                _picture(panel, _faint(to_picture(image)))
                panel.imshow(_overlay(row.maps[title], most), interpolation="bilinear")
                panel.set_xlabel(signed(row.totals[title]))
        for title, panel in zip(("image", *titles), grid[0], strict=True):
            panel.set_title(title)
        colours = (
            Patch(color=SIGNED(0.85), label="speaks for the class"),
            Patch(color=SIGNED(0.1), label="against it"),
        )
        figure.legend(handles=colours, loc="outside lower center", ncols=2, frameon=False)
        file = io.BytesIO()
        figure.savefig(file, format="png")
        return file.getvalue()


def signed(value: float) -> str:
    """With its sign, to two places."""
    return f"{value:+.2f}".replace("-", "−")


def _picture(axes: Axes, picture: np.ndarray) -> None:
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def _faint(picture: np.ndarray) -> np.ndarray:
    """Light enough for colours to be seen on it: colours are whitened, and light on black becomes grey on white."""
    return (255 - 0.45 * picture if picture.ndim == 2 else 150 + 105 / 255 * picture).astype(np.uint8)


def _overlay(values: np.ndarray, most: float) -> np.ndarray:
    """Signed values (H, W) -> colours (H, W, 4): the stronger, the more opaque."""
    strength = np.clip(values / (most or 1), -1, 1)
    colours: np.ndarray = SIGNED(np.where(strength < 0, 0.1, 0.85))
    colours[..., 3] = 0.9 * np.abs(strength) ** 0.7
    return colours


# Labels, as Scodellaro et al. show theirs: the patterns, and an image that carries each of them.


class ImageRow(Struct, frozen=True):
    """A row of images of one size in [0, 1], and what stands beside it."""

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


def image_rows_png(columns: Sequence[str], rows: Sequence[ImageRow]) -> bytes:
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
