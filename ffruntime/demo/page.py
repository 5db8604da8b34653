"""What was shown, as one page without outside resources and as one picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from msgspec import Struct
from PIL import Image

from .chart import WIDTH

QUICK = "QUICK: far fewer images and steps than the protocol says"


class Table(Struct, frozen=True):
    """A table: the first column names the rows."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Scene(Struct, frozen=True):
    """All that is shown of a scene."""

    title: str
    about: str  # the protocol, in a few sentences
    headline: Mapping[str, str]  # what a figure is -> the figure
    charts: Sequence[str]  # `<svg>` elements
    images: Sequence[tuple[str, np.ndarray]]  # what it shows, and uint8 (H, W)
    tables: Sequence[Table]


def page(scenes: Sequence[Scene], facts: Mapping[str, str], quick: bool) -> str:
    """The page as HTML; `facts` say where it was measured and with what."""
    template = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title="Learning on the device",
        mark=f'<span class="mark">{QUICK}</span>' if quick else "",
        about="ffruntime demo: a Forward-Forward network that goes on learning, without backpropagation, without a "
        "training framework. Every figure was measured in this run.",
        scenes="\n".join(map(_section, scenes)),
        facts="".join(f"<dt>{escape(name)}</dt><dd>{escape(fact)}</dd>" for name, fact in facts.items()),
    )


def picture(scenes: Sequence[Scene], quick: bool) -> str:
    """All charts below each other as one SVG file, dark on white; marked where it was quick."""
    charts = [chart for scene in scenes for chart in scene.charts]
    top, drawn = 24 if quick else 0, []
    if quick:
        drawn.append(f'<text x="12" y="16" font-size="11" fill="#d55e00">{QUICK}</text>')
    for chart in charts:
        width, height = map(int, chart.split('viewBox="0 0 ', 1)[1].split('"', 1)[0].split())
        drawn.append(chart.replace("<svg ", f'<svg y="{top}" width="{width}" height="{height}" ', 1))
        top += height
    size = f'viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}"'
    style = 'color="#1b1f24" font-family="sans-serif"'
    ground = '<rect width="100%" height="100%" fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{ground}{"".join(drawn)}</svg>\n'


def _section(scene: Scene) -> str:
    tiles = "".join(
        f'<div><span class="soft">{escape(what)}</span><b>{escape(figure)}</b></div>'
        for what, figure in scene.headline.items()
    )
    charts = "".join(f"<figure>{chart}</figure>" for chart in scene.charts)
    images = "".join(f'<img src="{_png(pixels)}" alt="{escape(said)}">' for said, pixels in scene.images)
    return (
        f'<h2>{escape(scene.title)}</h2>\n<p class="soft">{escape(scene.about)}</p>\n'
        f'<div class="tiles">{tiles}</div>\n<div class="images">{images}</div>\n'
        f'<div class="grid">{charts}</div>\n{"".join(map(_table, scene.tables))}'
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.header)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for name, *cells in table.rows
    )
    caption = f"<caption>{escape(table.caption)}</caption>"
    return (
        f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>\n'
    )


def _png(pixels: np.ndarray) -> str:
    """uint8 (H, W) as the address of an image that lies in the page."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
