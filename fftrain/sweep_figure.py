"""A sweep as a picture: accuracy against the swept value, a line for each value of the other fields."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from .drawing import OKABE_ITO
from .sweep_table import SweepRow, is_number, show_value, show_values

MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # as many lines can be told apart as colours times markers
TITLES = {"classifier": "linear classifier", "goodness": "goodness"}


def draw_sweep(rows: Sequence[SweepRow], x: str, others: Sequence[str] | None) -> Figure:
    """Two panels, by the linear classifier and by goodness, with bars of one standard deviation over the seeds.

    `x` is the swept field on the axis; the points of a line have the fields `others` in common. None draws points
    alone, as a search's have nothing in common; words on the axis, which have no order, are not joined either.
    """
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (mode, title) in zip(panels, TITLES.items(), strict=True):
        _panel(axes, [row for row in rows if mode in row.accuracy], mode, x, others)
        axes.set_title(title)
        axes.set_xlabel(x)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(alpha=0.2)
    panels[0].set_ylabel("right, of the validation images")
    if others:
        panels[1].legend(fontsize=8, frameon=False)
    return figure


def _panel(axes: Axes, rows: Sequence[SweepRow], mode: str, x: str, others: Sequence[str] | None) -> None:
    values: list[Any] = [row.values.get(x) for row in rows]
    names = list(dict.fromkeys(map(show_value, values)))
    numeric = all(map(is_number, values))
    lines: dict[str, list[SweepRow]] = {}
    for row in rows:
        lines.setdefault(show_values({field: row.values.get(field) for field in others or ()}), []).append(row)
    for number, (label, line) in enumerate(lines.items()):
        means, deviations = zip(*(row.accuracy[mode] for row in line), strict=True)
        axes.errorbar(
            [row.values[x] if numeric else names.index(show_value(row.values.get(x))) for row in line],
            means,
            [deviation or 0.0 for deviation in deviations],
            color=OKABE_ITO[number % len(OKABE_ITO)],
            marker=MARKERS[number % len(MARKERS)],
            linestyle="-" if numeric and others is not None else "",
            capsize=2,
            label=label,
        )
    if not numeric:
        axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
        return
    if values and min(values) > 0 and max(values) > 30 * min(values):
        axes.set_xscale("log")
    if others is not None:
        axes.set_xticks(values, map(show_value, values))
        axes.minorticks_off()


def sweep_png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=150)
    return data.getvalue()


def sweep_html(figure: Figure, title: str, lines: Sequence[Sequence[str]]) -> bytes:
    """A page of its own: the table and the figure, as SVG; nothing is loaded from elsewhere."""
    svg = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ffedge"}):
        figure.savefig(svg, format="svg", metadata={"Date": None})
    drawing = svg.getvalue()[svg.getvalue().index("<svg") :]
    head = "".join(f"<th>{escape(cell)}</th>" for cell in lines[0])
    body = "\n".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in lines[1:])
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; }} th, td {{ padding: .2rem .8rem; text-align: left; }}
th {{ border-bottom: 1px solid; }} svg {{ width: 100%; height: auto; }}
</style>
<h1>{escape(title)}</h1>
<p>Right answers of the validation images in per cent: linear classifier / goodness; ± is one standard deviation
over the seeds.</p>
<table><thead><tr>{head}</tr></thead><tbody>
{body}
</tbody></table>
{drawing}
</html>
""".encode()
