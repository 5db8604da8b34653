"""Of `docs/results.md`: class goodness. What has not been measured yet is left out."""

from __future__ import annotations

import statistics
from typing import Any

from page_steps import learning_table, training_table
from page_text import measured, optional, percent, table, where

from fftrain.recipe import DEFAULT_RECIPE, FEWEST, QUICK_RECIPE

NAME, SHORT = "class_goodness", "short_trainings"
KINDS = {
    "mnist": "MNIST",
    "clock": "MNIST, as many steps as there were minutes for",
    "fashion": "Fashion-MNIST",
    "backpropagation": "MNIST, by backpropagation",
}
INTRODUCTION = """## Class goodness

Every unit has a readout, and learns by the cross-entropy of its own goodness of all classes. These are layer-local
classifiers (`pred` of Nøkland and Eidnes 2019; CwComp, DeeperForward and CAW-Conv in the Forward-Forward
literature): a unit's gradient passes its readout and its own operations, never another unit. No label is in the
image, so one pass answers for all classes.
"""


def section() -> str:
    """The section, or nothing where nothing of it has been measured."""
    parts = [_accuracy(), _short(), _weighing(), _time(), _inference(), _exit(), _precisions(), _training()]
    parts.append(_learning())
    there = [part for part in parts if part]
    return "\n".join([INTRODUCTION, *there]) if there else ""


def rows(part: str) -> list[dict[str, Any]]:
    """What a part of `class_goodness.py` has recorded, seed by seed."""
    found = optional(NAME).get("rows", {})
    return [row for name, row in found.items() if name.rpartition("-")[0] == part or name == part]


def mean_accuracy(part: str, split: str) -> float:
    """Mean over the seeds of a training part."""
    return statistics.mean(row["accuracy"][split]["goodness"] for row in rows(part))


def spread(values: list[float], digits: int = 2) -> str:
    """Shares in per cent: their mean, and where there are several their standard deviation."""
    deviation = f" ± {100 * statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.{digits}f}{deviation} %"


def _accuracy() -> str:
    means, runs = [], []
    for part, what in KINDS.items():
        found = rows(part)
        if not found:
            continue
        seeds, first = len(found), found[0]
        cells = [spread([row["accuracy"][split]["goodness"] for row in found]) for split in ("validation", "test")]
        means.append([what, str(seeds), f"{first['parameters']:,}", *cells])
        for row in found:
            cells = [percent(row["accuracy"][split]["goodness"]) for split in ("validation", "test")]
            total = row["total"]["name"] if row["total"] else "–"
            runs.append([f"`{row['command']}`", f"{row['steps']:,}", f"{row['tflop']:.0f}", total, *cells])
    if not means:
        return ""
    hours = ", ".join(f"{row['seconds'] / 60:.0f}" for part in KINDS for row in rows(part) if "seconds" in row)
    took = f"The runs took {hours} minutes beside other programs; TFLOP measure them better. " if hours else ""
    text = (
        "Backpropagation trains the same network for as many steps, by one loss of its last readout: more "
        f"arithmetic, as its gradient goes through all units. {took}A network's total is the weighted sum of its "
        "units' goodness that answered most validation images rightly when training ended.\n\n"
        + table(["data", "seeds", "parameters", "validation", "test"], means)
        + "\n"
        + table(["run", "steps", "TFLOP", "total", "validation", "test"], runs)
    )
    return text + "\n" + _measured(" ".join(KINDS), [*KINDS])


def _short() -> str:
    found = short_trainings()
    if not found:
        return ""
    lines = []
    for seconds, of_recipes in found.items():
        cells = [[f"{steps:,}", spread(shares)] for steps, shares in of_recipes.values()]
        lines.append([f"{seconds:g} s", *(cell for pair in cells for cell in pair)])
    names = next(iter(found.values()))
    head = ["processor time", *(cell for name in names for cell in (f"steps of `{name}`", f"validation, `{name}`"))]
    text = (
        "In a short time a smaller network learns more, as more of its steps fit in. The same processor time of a "
        f"core, each a whole schedule. `fftrain` takes `{QUICK_RECIPE}` where it finds time for fewer than "
        f"{FEWEST:,} steps of `{DEFAULT_RECIPE}`:\n\n"
    )
    return text + table(head, lines) + "\n" + measured(SHORT, f"python benchmarks/{SHORT}.py")


def short_trainings() -> dict[float, dict[str, tuple[int, list[float]]]]:
    """Seconds of one core -> of each recipe its steps in these, and validation accuracy, seed by seed."""
    found: dict[float, dict[str, tuple[int, list[float]]]] = {}
    for row in sorted(optional(SHORT).get("rows", {}).values(), key=lambda row: row["seconds"]):
        of_recipes = found.setdefault(row["seconds"], {})
        of_recipes.setdefault(row["recipe"], (row["steps"], []))[1].append(row["validation"])
    return found


def _weighing() -> str:
    found = rows("weighing")
    if not found:
        return ""
    cells = [[kind, spread([row["accuracy"][kind] for row in found])] for kind in found[0]["accuracy"]]
    return (
        "What weighs the units in the total, the best of each kind on the validation images; an interval is as in "
        "HCL-FF, the softmax of minus the training losses as in CAW-Conv:\n\n"
        + table(["weights", f"validation, {len(found)} seed{'s' if len(found) > 1 else ''}"], cells)
        + "\n"
        + _measured("weighing", ["weighing"])
    )


def _time() -> str:
    return "\n".join(_time_of(row) for row in rows("time"))


def _time_of(row: dict[str, Any]) -> str:
    tried = ", ".join(
        f"{percent(statistics.mean(found))} after {epochs}" for epochs, found in row["validation"].items()
    )
    peak, target = row["share_of_convolution_peak"], percent(row["target"])
    end = (
        f"So the training to {target} takes **{row['time_over_cpu']:.2f}** of the time."
        if row["reached"]
        else f"{target} was not reached."
    )
    return (
        f"Time to the {target} of validation images that recipe `cpu` (the label in the input) reaches after "
        f"{row['cpu_steps']:,} steps: recipe `{row['recipe']}`, {_seeds(row['seed'])}, has {tried} "
        f"epochs, a schedule of its own each ({row['steps']:,} steps the last). A step takes "
        f"{row['time_of_a_step_over_cpu']:.2f} of the time of one of `cpu`, at {peak[row['recipe']]:.2f} and "
        f"{peak['cpu']:.2f} of the measured convolution peak. {end}\n\n" + _measured("time", ["time"])
    )


def _seeds(seeds: list[int]) -> str:
    return f"mean of {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"


def _inference() -> str:
    return "\n".join(
        f"One image's goodness of all ten classes, in ffruntime on {row['threads']} threads, is "
        f"**{row['speed_over_cpu']:.1f}** times as fast as that of recipe `cpu`'s network, which was not trained "
        "for this: its sizes alone decide.\n\n" + _measured("inference", ["inference"])
        for row in rows("inference")
    )


def _exit() -> str:
    found = rows("exit")
    if not found:
        return ""
    lines = [
        [
            str(row["seed"]),
            *(percent(row["accuracy"][mode]) for mode in ("goodness", "exit")),
            *(f"{row['points_from_goodness']:+.2f}", f"{row['mean_passes']:.2f}", f"{row['most_passes']:.2f}"),
        ]
        for row in found
    ]
    head = ["seed", "a whole pass", "early exit", "points", "passes on average", "at most"]
    return (
        f"Mode `exit` answers after the first unit that is sure, here on all {found[0]['images']:,} validation "
        "images; its thresholds were calibrated on exemplars of the training set, at export. A pass is that share "
        "of a whole pass's multiply-accumulates.\n\n" + table(head, lines) + "\n" + _measured("exit", ["exit"])
    )


def _precisions() -> str:
    lines, parts = [], []
    for name in ("fp16", "int8"):
        if found := rows(name):
            parts.append(name)
            lost = [row["loss_points"] for row in found]
            size = found[0]["weights_bytes"]
            lines.append(
                [
                    *(name, f"{size[name] / 1e3:.0f} kB of {size['fp32'] / 1e3:.0f}", str(len(found))),
                    spread([row["accuracy"][name] for row in found]),
                    *(f"{statistics.mean(lost):.2f}", f"{max(lost):.2f}"),
                ]
            )
    if not lines:
        return ""
    head = ["", "weights", "seeds", "validation", "points lost against fp32, mean", "most"]
    return table(head, lines) + "\n" + _measured(" ".join(parts), parts)


def _training() -> str:
    name = "training_class"
    if not optional(name):
        return ""
    options = "--goodness class --width 32 --kernel 3 --batch 64 --steps 4"
    return (
        "A training step beside that of local classifiers as they are usually written in PyTorch (plain), and "
        "beside backpropagation from the last readout:\n\n" + training_table(name, f"training.py {options}")
    )


def _learning() -> str:
    name = "learning_class"
    return learning_table(name, "learning.py --goodness class") if optional(name) else ""


def _measured(parts: str, names: list[str]) -> str:
    """Where the rows of those names come from: every machine that is among them."""
    found = [row["machine"] for name in names for row in rows(name)]
    return where(NAME, f"python benchmarks/class_goodness.py FOLDER {parts}", found)
