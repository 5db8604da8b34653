"""Of `docs/results.md`: learning on the device beside other methods. What has not been measured yet is left out."""

from __future__ import annotations

import statistics
from typing import Any

from page_text import measured, optional, percent, table

NAME = "continual_class"
COMMAND = "python benchmarks/continual.py nine.ff model.ff untrained.ff"
TAUGHT = "class statistics (ffruntime learn)"  # rows that the front page shows
ONE_PASS = "class statistics, a covariance of each class, edges (Learner)"
SPLITS = {"split": "Split-MNIST", "fashion": "Split-Fashion-MNIST"}
INTRODUCTION = """## Learning on, beside other methods

By class goodness, on test images. *Kept* are statistics, pictures and features, beside the network's weights;
seconds are of a processor core that other programs shared; GMAC are thousand millions of multiply-accumulates.
Methods that take steps were run with fewer draws and seeds. `ffruntime learn` is the device's own command;
`Learner` and `Stream` are the device's program, called otherwise than the command calls it; what names none of them
is a method of the benchmark and of the demonstration.
"""


def section() -> str:
    """The section, or nothing where nothing of it has been measured."""
    parts = [_digit(), *(_split(part) for part in SPLITS), _worlds()]
    there = [part for part in parts if part]
    if not there:
        return ""
    return "\n".join([INTRODUCTION, *there, measured(NAME, COMMAND)])


def sentence() -> str:
    """The front page's figures, as far as they have been measured."""
    told = []
    if found := _rows("digit").get(TAUGHT):
        after = " / ".join(f"{100 * statistics.mean(shares):.1f}" for shares in found["new"].values())
        others = (
            f"{100 * statistics.mean(found['before']):.1f} to {_spread(found['others']['80']).partition(' ')[0]} %"
        )
        told.append(
            f"a digit never seen {after} % after {' / '.join(found['new'])} examples, the others from {others}"
        )
    if found := _rows("split").get(ONE_PASS):
        share = percent(statistics.mean(found["accuracy"]))
        told.append(f"Split-MNIST in one pass without a picture stored, {found['kept'] / 1e3:.0f} kB kept, {share}")
    return f" By class goodness: {'; '.join(told)}." if told else ""


def _rows(part: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = optional(NAME).get(part, {}).get("methods", {})
    return found


def _spread(shares: list[float], digits: int = 1) -> str:
    """Shares as per cent: their mean, and where there are several their standard deviation."""
    deviation = f" ± {100 * statistics.stdev(shares):.{digits}f}" if len(shares) > 1 else ""
    return f"{100 * statistics.mean(shares):.{digits}f}{deviation}"


def _cost(row: dict[str, Any]) -> list[str]:
    return [f"{row['kept'] / 1e3:.0f} kB", f"{row['seconds']:g}", f"{row['learn_gmac']:g}"]


def _digit() -> str:
    found, lines = _rows("digit"), []
    if not found:
        return ""
    counts = list(next(iter(found.values()))["new"])
    for name, row in found.items():
        draws = len(next(iter(row["new"].values())))
        cells = [_spread(row["new"][n]) if n in row["new"] else "–" for n in counts]
        before = f"{100 * statistics.mean(row['before']):.1f} → " if row["before"] else ""
        lines.append([name, str(draws), *cells, before + _spread(row["others"][counts[-1]]), *_cost(row)])
    after = [f"{n} example{'s' * (n != '1')}" for n in counts]
    head = ["method", "draws", *after, "the others, before → after", "kept", "seconds", "GMAC"]
    networks = next(iter(found.values()))["networks"]
    of = f"{networks} networks, each" if networks > 1 else "one network"
    text = (
        f"Accuracy in per cent; of {of} trained without the digit; standard deviations are over draws of examples."
    )
    return f"### A digit never seen\n\n{text}\n\n" + table(head, lines)


def _split(part: str) -> str:
    found = _rows(part)
    if not found:
        return ""
    lines = [
        [name, str(len(row["accuracy"])), _spread(row["accuracy"], 2), *_cost(row), f"{row['answer_mmac']:g}"]
        for name, row in sorted(found.items(), key=lambda item: -statistics.mean(item[1]["accuracy"]))
    ]
    head = ["method", "seeds", "ACC, %", "kept", "seconds", "GMAC of learning", "MMAC of an answer"]
    text = (
        "One pass over five tasks of two classes, one answer of ten; ACC is the mean over the tasks in the end. "
        "Methods that take steps store 500 images, and take half the demonstration's ([demo.md](demo.md))."
    )
    return f"### {SPLITS[part]}\n\n{text}\n\n" + table(head, lines)


def _worlds() -> str:
    found = _rows("worlds")
    if not found:
        return ""
    worlds = list(next(iter(found.values()))["accuracy"])
    lines = []
    for name, row in found.items():
        cells = [_spread(row["accuracy"][world]["new"]) for world in worlds]
        summed = [_spread(row[what]) for what in ("mean", "worst", "old")]
        lines.append([name, str(len(row["mean"])), *cells, *summed, *_cost(row)])

    def mean(name: str, world: str) -> float:
        return statistics.mean(found[name]["accuracy"][world]["new"])

    def best(world: str) -> str:
        name = max(found, key=lambda name: mean(name, world))
        return f"{world}: {name} ({percent(mean(name, world), 1)})"

    head = ["method", "seeds", *worlds, "mean", "worst", "the old world", "kept", "seconds", "GMAC"]
    return (
        "### Changed worlds\n\nAccuracy in per cent after 320 labelled images of a world; the old world's is the "
        "mean over the six, the worst that of each seed. Seeds draw which images arrive.\n\n"
        + table(head, lines)
        + f"\nThe best in each world: {'; '.join(map(best, worlds))}.\n"
    )
