"""What a person sees of the scenes: tables and charts, one page without outside resources, and one picture.

Charts are SVG that takes its text colour from the page around it. Colours are Okabe and Ito's, and every line has
its own dashes, so that lines can be told apart without colour vision, on light and on dark.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from msgspec import Struct
from PIL import Image

from ..core.data import Examples
from ..core.manifest import MODES
from .digits import SHAPE
from .split_mnist import TASKS, Method, SplitPlan, summary
from .teach import ChangedWorldPlan, Measurement, NewClassPlan

CLASSES = ", by class goodness"
QUICK = "QUICK: far fewer images and steps than the protocol says"
PICTURES = 20
METHODS = {
    "replay": "replay + rehearsal",
    "naive": "naive",
    "gdumb": "GDumb",
    "each": "a covariance of each class",
    "shared": "one covariance",
    "neighbours": "nearest neighbours",
    "mean": "nearest class mean",
    "waves": "random Fourier features",
}
GRADIENTS = "gradients, replay"  # the learner's updates, where other methods are shown beside

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#A6761D")
DASHES = ("", "7 4", "2 3", "9 3 2 3", "14 4", "4 2", "1 4", "10 2 2 2 2 2")
WIDTH = 480
LEFT, RIGHT, TOP, BOTTOM = 48, 468, 34, 232  # of the plotted area; below it the axis, then the legend
COLUMN, ROW = 210, 17  # of the legend

Line = Sequence[tuple[float, float]]  # (x, share)


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


# --- what is shown of each scene, with its protocol in a few sentences


def show_new_class(
    digit: int,
    points: Sequence[Measurement],
    taught: Sequence[Examples],
    plan: NewClassPlan,
    where: str,
    of_classes: bool = False,
) -> Scene:
    """Scene 1; `where` says on which images it was measured, `of_classes` whether by class goodness."""
    first, last, mode = points[0], points[-1], next(iter(points[0].new))
    takes = "row in the readout of every unit" if of_classes else "label pattern"
    return Scene(
        f"A class never seen: {digit}{CLASSES if of_classes else ''}",
        f"The network was trained without the digit {digit}. {last.examples} of them are learned on the device, a "
        f"portion at a time, with the defaults of 'ffruntime learn --update now': the new class takes a spare "
        f"{takes}, the other digits are replayed from the bundle's exemplars.{_beside(first)} Measured on "
        f"{plan.measured:,} {where} images.",
        {
            f"{digit}s before": percent(first.new[mode]),
            f"{digit}s after {last.examples} examples": percent(last.new[mode]),
            "the other digits before": percent(first.old[mode]),
            "the other digits after": percent(last.old[mode]),
        },
        [
            _chart(f"Accuracy on {digit}s", points, lambda point: point.new),
            _chart("Accuracy on the other digits", points, lambda point: point.old),
        ],
        _pictures(taught),
        [_points(f"accuracy on {digit}s, and on the other digits", points)],
    )


def show_changed_world(
    worlds: Mapping[str, Sequence[Measurement]],
    taught: Mapping[str, Sequence[Examples]],
    plan: ChangedWorldPlan,
    where: str,
    of_classes: bool = False,
) -> Scene:
    """Scene 2."""
    mode = next(iter(next(iter(worlds.values()))[0].new))
    headline = {
        f"{world}: before, after": f"{percent(points[0].new[mode])} → {percent(points[-1].new[mode])}"
        for world, points in worlds.items()
    }
    charts = [
        lines_svg(
            f"The world is {world}",
            "labelled images learned",
            {
                f"{what}, {_named(mode, points[0])}": [(p.examples, getattr(p, part)[mode]) for p in points]
                for part, what in (("new", world), ("old", "as it was"))
                for mode in points[0].new
                if part == "new" or mode in MODES  # of the others, the old world is in the table
            },
        )
        for world, points in worlds.items()
    ]
    return Scene(
        f"A changed world{CLASSES if of_classes else ''}",
        f"The digits begin to arrive {', '.join(worlds)}. In each of these worlds, from the shipped network, "
        f"{plan.portions} portions of {plan.portion} labelled images are learned by updates of all units, "
        f"{plan.settings.steps} steps at a rate of {plan.settings.lr:g}, {100 * plan.settings.fresh:.0f} % of the "
        f"images new; then the device rests, and rehearses what it has stored for {plan.rehearsal} steps."
        f"{_beside(next(iter(worlds.values()))[0])} Measured on {plan.measured:,} {where} images, changed and as "
        "they were.",
        headline,
        charts,
        [picture for world in worlds for picture in _pictures(taught[world], 8, f"{world}: ")],
        [_points(f"{world}: accuracy there, and in the old world", points) for world, points in worlds.items()],
    )


def show_split_mnist(
    seeds: Mapping[int, Mapping[str, Method]], plan: SplitPlan, where: str, of_classes: bool = False
) -> Scene:
    """Scene 3."""
    found = {name: [methods[name] for methods in seeds.values()] for name in METHODS}
    r = np.mean([method.r for method in found["replay"]], axis=0)
    tasks = [f"{a} {b}" for a, b in TASKS]
    so_far = {
        METHODS[name]: _so_far(np.mean([method.r for method in found[name]], axis=0))
        for name in METHODS
        if name != "gdumb"
    }
    end = float(len(tasks))
    return Scene(
        f"Split-MNIST: ten digits in five tasks{CLASSES if of_classes else ''}",
        "Class-incremental and online: an untrained network meets two digits after two others, every image once, "
        f"{plan.arriving} at a time; it is never told which task an image is of, and in the end answers with one "
        f"of ten digits. At most {plan.stored} examples are stored, {plan.stored * int(np.prod(SHAPE)):,} bytes; "
        f"after each task the device rests and rehearses them for {plan.rehearsal} steps. In memory, without a "
        "state directory. Naive: the same steps, nothing stored. GDumb: a fresh network of the same kind, which "
        f"learns only the same {plan.stored} examples, for {plan.gdumb} steps. The others see edges and take no "
        "steps: class statistics with a covariance of each class, or with one; neighbours among stored features; "
        "the nearest class mean; and one covariance of random Fourier features of pixels. ACC, BWT and forgetting "
        f"are by {'goodness' if of_classes else 'the classifier'}, on all {where} images; goodness on "
        f"{plan.goodness:,} of them. Seeds: {', '.join(map(str, seeds))}.",
        {f"ACC, {METHODS[name]}": _spread(summary(methods)["acc"], len(seeds)) for name, methods in found.items()},
        [
            lines_svg(
                "Mean accuracy on the tasks met so far",
                "tasks learned",
                {**so_far, METHODS["gdumb"]: [(end, float(np.mean([method.acc for method in found["gdumb"]])))]},
            ),
            lines_svg(
                "Each task's accuracy, replay + rehearsal",
                "tasks learned",
                {task: [(i + 1, float(r[i, j])) for i in range(j, len(tasks))] for j, task in enumerate(tasks)},
            ),
        ],
        [],
        [
            Table(
                f"Split-MNIST; mean ± standard deviation of {len(seeds)} seeds"
                if len(seeds) > 1
                else "Split-MNIST",
                ("method", "ACC", "BWT", "forgetting", "ACC by goodness", "bytes kept", "steps", "seconds"),
                tuple(_method(METHODS[name], methods) for name, methods in found.items()),
            ),
            Table(
                "R: accuracy on each task (column) after each task (row), replay + rehearsal",
                ("after", *tasks),
                tuple(
                    (task, *(percent(float(r[i, j])) if j <= i else "" for j in range(len(tasks))))
                    for i, task in enumerate(tasks)
                ),
            ),
        ],
    )


def percent(share: float) -> str:
    """0.9512 -> `95.1 %`."""
    return f"{100 * share:.1f} %"


def _so_far(r: np.ndarray) -> list[tuple[float, float]]:
    """After each task, the mean accuracy on the tasks met: R (T, T) -> (1, …), … (T, …)."""
    return [(i + 1.0, float(row[: i + 1].mean())) for i, row in enumerate(r)]


def _spread(share: tuple[float, float] | None, seeds: int) -> str:
    """Mean and standard deviation -> `96.12 ± 0.20 %`."""
    if share is None:
        return "–"
    mean, deviation = (f"{100 * value:.2f}" for value in share)
    return f"{mean} ± {deviation} %" if seeds > 1 else f"{mean} %"


def _method(title: str, methods: Sequence[Method]) -> tuple[str, ...]:
    figures = summary(methods)
    return (
        title,
        *(_spread(figures[figure], len(methods)) for figure in ("acc", "bwt", "forgetting", "acc_by_goodness")),
        f"{methods[0].kept:,}",
        f"{methods[0].steps:,}",
        f"{np.mean([method.seconds for method in methods]):.0f}",
    )


def _chart(title: str, points: Sequence[Measurement], part: Callable[[Measurement], dict[str, float]]) -> str:
    lines = {
        _named(mode, points[0]): [(point.examples, part(point)[mode]) for point in points] for mode in points[0].new
    }
    return lines_svg(title, "examples learned", lines)


def _others(point: Measurement) -> list[str]:
    """Methods that were measured beside the learner's updates."""
    return [name for name in point.new if name not in MODES]


def _named(mode: str, point: Measurement) -> str:
    """A line's name: an inference mode or, where methods are compared, what the learner does."""
    return GRADIENTS if mode == "goodness" and _others(point) else mode


def _beside(point: Measurement) -> str:
    """What is shown beside the learner's updates."""
    others = _others(point)
    return f" Beside it, without steps: {', '.join(others)}." if others else ""


def _points(caption: str, points: Sequence[Measurement]) -> Table:
    modes = list(points[0].new)
    named = [_named(mode, points[0]) for mode in modes]
    header = ("examples", *(f"new, {name}" for name in named), *(f"old, {name}" for name in named), "s", "")
    rows = tuple(
        (
            str(point.examples),
            *(percent(part[mode]) for part in (point.new, point.old) for mode in modes),
            f"{point.seconds:.1f}",
            " ".join(["rehearsed"] * (point.rehearsed > 0) + ["refused"] * (not point.adopted)),
        )
        for point in points
    )
    return Table(caption, header, rows)


def _pictures(portions: Sequence[Examples], count: int = PICTURES, what: str = "") -> list[tuple[str, np.ndarray]]:
    """The first images learned, with what they show."""
    shown = [
        (int(label), image[0]) for some in portions for image, label in zip(some.pixels, some.labels, strict=True)
    ]
    return [(f"{what}{label}, learned", image) for label, image in shown[:count]]


# --- the page, and the picture


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


# --- charts


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
        f"{name}: from {percent(line[0][1])} to {percent(line[-1][1])}" for name, line in lines.items()
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
