"""Of `docs/results.md`: what ten devices know together, and where one lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from page_text import measured, optional, percent, table

BUNDLES = {
    "edges": "recipe `edges`, nothing counted before",
    "nine": "recipe `class`, trained on the digits 0 to 8",
    "mnist": "recipe `class`, trained on all ten digits",
}
DEALT = {"pairs": "two digits each", "dirichlet": "Dirichlet 0.3"}


def section() -> str:
    """The section, or nothing where it has not been measured."""
    found = optional("fleet")
    if not found:
        return ""
    kept = max(row["kept"] for row in rows(found["test"]["counting"]))
    text = (
        "## Ten devices that share what they learned\n\n"
        "Each device is shown its part of the 50,000 training images and stores none: class statistics of at most "
        f"{kept / 1000:.0f} kB. Accuracy on all ten digits, MNIST test images, means over seeds. One that "
        "lies names every digit as the third after it and counts every picture ten times.\n\n"
        + table(
            [
                "bundle",
                "dealt",
                "seeds",
                "one alone",
                "merged",
                "one that saw all",
                "one lies",
                "the same, `--robust`",
            ],
            [line(found["test"]["counting"][bundle][how], bundle, how) for bundle in BUNDLES for how in DEALT],
        )
        + f"\nThe merge {'is' if bits(found) else 'is not'}, bit for bit, the statistics of one device that was "
        f"shown everything. With `--robust` the liar was left out in {left_out(found)}; where all ten are honest, "
        f"{honest(found)} were.\n\n"
    )
    learned = found["validation"]["learning"]
    learn, test = learned["edges"]["pairs"][0]["images"]
    return (
        text + f"What to merge, on {test:,} validation images: of {learn:,} images each device keeps the last 500 "
        f"of its part; its readouts learn from them, {learned['edges']['pairs'][0]['steps']} steps, as many on "
        "the bundle's exemplars (*rehearsed*). One seed.\n\n"
        + table(
            [
                "bundle",
                "dealt",
                "statistics alone",
                "rehearsed",
                "readouts alone",
                "rehearsed",
                "both",
                "rehearsed",
            ],
            [
                [BUNDLES[bundle], DEALT[how], *(percent(learned[bundle][how][0][way], 1) for way in WAYS)]
                for bundle in BUNDLES
                for how in DEALT
            ],
        )
        + "\nSo statistics alone are the default; averaged readouts lose what devices with unlike parts "
        "of the world have learned, and rehearsal does not bring it back.\n\n"
        + measured("fleet", "python benchmarks/fleet.py WORK")
    )


WAYS = ("statistics", "statistics_rehearsed", "readouts", "readouts_rehearsed", "both", "both_rehearsed")


def rows(part: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for bundle in part.values() for how in bundle.values() for row in how]


def line(found: Sequence[dict[str, Any]], bundle: str, how: str) -> list[str]:
    alone = sum(sum(row["alone"]) / len(row["alone"]) for row in found) / len(found)
    figures = [
        sum(row[what] for row in found) / len(found)
        for what in ("merged", "everything", "lied_to", "lied_to_robust")
    ]
    return [BUNDLES[bundle], DEALT[how], str(len(found)), percent(alone), *map(percent, figures)]


def bits(found: dict[str, Any]) -> bool:
    return all(row["bit_for_bit"] for row in rows(found["test"]["counting"]))


def left_out(found: dict[str, Any]) -> str:
    some = rows(found["test"]["counting"])
    return f"{sum(any(row['liar_left_out']) for row in some)} of {len(some)} runs"


def honest(found: dict[str, Any]) -> int:
    return sum(row["honest_left_out"] for row in rows(found["test"]["counting"]))
