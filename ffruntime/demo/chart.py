"""A line chart as SVG that takes its text colour from the page around it; nothing but strings.

Colours are Okabe and Ito's, and every line has its own dashes, so that lines can be told apart without colour
vision, on light and on dark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("", "7 4", "2 3", "9 3 2 3", "14 4", "4 2")
WIDTH = 480
LEFT, RIGHT, TOP, BOTTOM = 48, 468, 34, 232  # of the plotted area; below it the axis, then the legend
COLUMN, ROW = 210, 17  # of the legend

Line = Sequence[tuple[float, float]]  # (x, share)


def lines_svg(title: str, x_name: str, lines: Mapping[str, Line]) -> str:
    """Shares, as percentages up to 100, over x: an `<svg>` element whose label says each first and last value."""
    xs = sorted({x for line in lines.values() for x, _ in line})
    span = (xs[-1] - xs[0]) or 1
    low = min(0.9, math.floor(10 * min(share for line in lines.values() for _, share in line)) / 10)

    def place(x: float, share: float) -> tuple[float, float]:
        above = (share - low) / (1 - low)
        return round(LEFT + (RIGHT - LEFT) * (x - xs[0]) / span, 1), round(BOTTOM - (BOTTOM - TOP) * above, 1)

    drawn = [_text(LEFT, 18, title, size=14, weight="600")]
    for share in (low + part * (1 - low) / 5 for part in range(6)):
        y = place(xs[0], share)[1]
        drawn.append(f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y}" y2="{y}" stroke="currentColor" opacity=".15"/>')
        drawn.append(_text(LEFT - 6, y + 4, f"{100 * share:.3g} %", anchor="end"))
    drawn += [_text(place(x, low)[0], BOTTOM + 16, f"{x:g}", anchor="middle") for x in _apart(xs, span)]
    drawn.append(_text(RIGHT, BOTTOM + 32, x_name, anchor="end"))
    for number, (name, line) in enumerate(lines.items()):
        drawn += _line(number, name, [place(x, share) for x, share in line])
    said = "; ".join(
        f"{name}: from {_percent(line[0][1])} to {_percent(line[-1][1])}" for name, line in lines.items()
    )
    height = BOTTOM + 44 + ROW * -(-len(lines) // 2)
    label = escape(f"{title}, over {x_name}: {said}")
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{"".join(drawn)}</svg>'


def _line(number: int, name: str, points: Sequence[tuple[float, float]]) -> list[str]:
    """The line, its points, and its entry in the legend."""
    colour, dashes = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
    style = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}" fill="none"'
    x, y = LEFT + COLUMN * (number % 2), BOTTOM + 48 + ROW * (number // 2)
    return [
        f'<polyline points="{" ".join(f"{px},{py}" for px, py in points)}" {style}/>',
        *(f'<circle cx="{px}" cy="{py}" r="2.6" fill="{colour}"/>' for px, py in points),
        f'<line x1="{x}" x2="{x + 26}" y1="{y - 4}" y2="{y - 4}" {style}/>',
        _text(x + 32, y, name),
    ]


def _apart(xs: Sequence[float], span: float) -> list[float]:
    """Those of `xs` that have room for a label of their own."""
    kept: list[float] = []
    for x in xs:
        if not kept or (x - kept[-1]) / span > 0.06:
            kept.append(x)
    return kept


def _text(x: float, y: float, words: str, size: int = 11, anchor: str = "start", weight: str = "400") -> str:
    style = f'font-size="{size}" font-weight="{weight}" text-anchor="{anchor}"'
    return f'<text x="{x}" y="{y}" fill="currentColor" {style}>{escape(words)}</text>'


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
