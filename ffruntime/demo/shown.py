"""What the scenes measured, as a person sees it: tables, charts, pictures, and the protocol in a few sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from . import changed_world, new_class, split_mnist
from .chart import lines_svg
from .follow import Point
from .mnist_files import SHAPE, Digits
from .page import Scene, Table

PICTURES = 20
METHODS = {"replay": "replay + rehearsal", "naive": "naive", "gdumb": "GDumb"}


def show_new_class(
    digit: int, points: Sequence[Point], taught: Sequence[Digits], plan: new_class.Plan, where: str
) -> Scene:
    """Scene 1; `where` says on which images it was measured."""
    first, last, mode = points[0], points[-1], next(iter(points[0].new))
    return Scene(
        f"A class never seen: {digit}",
        f"The network was trained without the digit {digit}. {last.examples} of them are learned on the device, a "
        "portion at a time, with the defaults of 'ffruntime learn': the new class takes a spare label pattern, the "
        f"other digits are replayed from the bundle's exemplars. Measured on {plan.measured:,} {where} images.",
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
    worlds: Mapping[str, Sequence[Point]],
    taught: Mapping[str, Sequence[Digits]],
    plan: changed_world.Plan,
    where: str,
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
                f"{what}, {mode}": [(p.examples, getattr(p, part)[mode]) for p in points]
                for part, what in (("new", world), ("old", "as it was"))
                for mode in points[0].new
            },
        )
        for world, points in worlds.items()
    ]
    return Scene(
        "A changed world",
        f"The digits begin to arrive {', '.join(worlds)}. In each of these worlds, from the shipped network, "
        f"{plan.portions} portions of {plan.portion} labelled images are learned with the defaults of 'ffruntime "
        f"learn'; then the device rests, and rehearses what it has stored for {plan.rehearsal} steps. Measured on "
        f"{plan.measured:,} {where} images, changed and as they were.",
        headline,
        charts,
        [picture for world in worlds for picture in _pictures(taught[world], 8, f"{world}: ")],
        [_points(f"{world}: accuracy there, and in the old world", points) for world, points in worlds.items()],
    )


def show_split_mnist(
    seeds: Mapping[int, Mapping[str, split_mnist.Method]], plan: split_mnist.Plan, where: str
) -> Scene:
    """Scene 3."""
    found = {name: [methods[name] for methods in seeds.values()] for name in METHODS}
    r = np.mean([method.r for method in found["replay"]], axis=0)
    tasks = [f"{a} {b}" for a, b in split_mnist.TASKS]
    so_far = {
        METHODS[name]: _so_far(np.mean([method.r for method in found[name]], axis=0))
        for name in ("replay", "naive")
    }
    end = float(len(tasks))
    return Scene(
        "Split-MNIST: ten digits in five tasks",
        "Class-incremental and online: an untrained network meets two digits after two others, every image once, "
        f"{plan.arriving} at a time; it is never told which task an image is of, and in the end answers with one "
        f"of ten digits. At most {plan.stored} examples are stored, {plan.stored * int(np.prod(SHAPE)):,} bytes; "
        f"after each task the device rests and rehearses them for {plan.rehearsal} steps. In memory, without a "
        "state directory. Naive: the same steps, nothing stored. GDumb: a fresh network of the same kind, which "
        f"learns only the same {plan.stored} examples, for {plan.gdumb} steps. ACC, BWT and forgetting are by the "
        f"{split_mnist.MODE}, on all {where} images; goodness on {plan.goodness:,} of them. Seeds: "
        f"{', '.join(map(str, seeds))}.",
        {
            f"ACC, {METHODS[name]}": _spread(split_mnist.summary(methods)["acc"], len(seeds))
            for name, methods in found.items()
        },
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
                ("method", "ACC", "BWT", "forgetting", "ACC by goodness", "examples", "bytes", "steps", "seconds"),
                tuple(_method(METHODS[name], methods, name, plan) for name, methods in found.items()),
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


def _method(
    title: str, methods: Sequence[split_mnist.Method], name: str, plan: split_mnist.Plan
) -> tuple[str, ...]:
    stored, figures = 0 if name == "naive" else plan.stored, split_mnist.summary(methods)
    return (
        title,
        *(_spread(figures[figure], len(methods)) for figure in ("acc", "bwt", "forgetting", "acc_by_goodness")),
        f"{stored:,}",
        f"{stored * int(np.prod(SHAPE)):,}",
        f"{methods[0].steps:,}",
        f"{np.mean([method.seconds for method in methods]):.0f}",
    )


def _chart(title: str, points: Sequence[Point], part: Callable[[Point], dict[str, float]]) -> str:
    lines = {mode: [(point.examples, part(point)[mode]) for point in points] for mode in points[0].new}
    return lines_svg(title, "examples learned", lines)


def _points(caption: str, points: Sequence[Point]) -> Table:
    modes = list(points[0].new)
    header = ("examples", *(f"new, {mode}" for mode in modes), *(f"old, {mode}" for mode in modes), "s", "")
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


def _pictures(portions: Sequence[Digits], count: int = PICTURES, what: str = "") -> list[tuple[str, np.ndarray]]:
    """The first images learned, with what they show."""
    shown = [
        (int(label), image[0]) for some in portions for image, label in zip(some.pixels, some.labels, strict=True)
    ]
    return [(f"{what}{label}, learned", image) for label, image in shown[:count]]
