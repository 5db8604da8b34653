"""The part of `docs/results.md` on how sure answers for a class are that was learned later."""

from __future__ import annotations

from typing import Any

from page_text import measured, optional, percent, table


def section() -> str:
    """What is called unsure, by its own thresholds and by the trained classes'; nothing before it was measured."""
    found = optional("later_class")
    if not found:
        return ""
    return (
        "## A class learned later\n\n"
        "[Thresholds of its own](learning.md#class-statistics): a network learns a digit that it never saw, by "
        'class statistics, and says "I don\'t know". Shares of validation images, means over draws of examples; in '
        "brackets by the trained classes' thresholds, of the same answers.\n\n"
        + table(
            ["trained on", "shown", "`--unsure`", *(f"{count} examples" for count in _counts(found))],
            [row for network in found["networks"] for row in _rows(network, _counts(found))],
        )
        + "\nOf what is shown that is not the new digit, answered as it, and how much of that is turned away:\n\n"
        + table(
            ["trained on", "shown", "`--unsure`", *(f"{count} examples" for count in _counts(found))],
            [row for network in found["networks"] for row in _taken(network, _counts(found))],
        )
        + "\n"
        + measured("later_class", "python benchmarks/later_class.py NINE.ff EIGHT.ff")
    )


def _counts(found: dict[str, Any]) -> list[int]:
    return sorted({row["examples"] for network in found["networks"] for row in network["rows"]})


def _cells(network: dict[str, Any], counts: list[int], cell: Any) -> list[list[str]]:
    classes, rows = network["classes"], network["rows"]
    kinds = dict.fromkeys((row["shown"], row["rate"]) for row in rows)
    new = f"the digit {int(classes[-1]) + 1}, learned"
    return [
        [
            f"{classes[0]} to {classes[-1]}",
            {"new": new, "trained": "trained digits"}.get(shown, shown),
            f"{rate:g}",
            *(cell(row) for count in counts for row in rows if _is(row, count, shown, rate)),
        ]
        for shown, rate in kinds
    ]


def _is(row: dict[str, Any], count: int, shown: str, rate: float) -> bool:
    return (row["examples"], row["shown"], row["rate"]) == (count, shown, rate)


def _rows(network: dict[str, Any], counts: list[int]) -> list[list[str]]:
    return _cells(network, counts, lambda row: f"{percent(row['own'], 1)} ({percent(row['trained'], 1)})")


def _taken(network: dict[str, Any], counts: list[int]) -> list[list[str]]:
    def cell(row: dict[str, Any]) -> str:
        of = row["answered_new"]
        return f"{of['of']:.0f}: {percent(of['own'], 0)} ({percent(of['trained'], 0)})"

    others = [row for row in network["rows"] if row["shown"] != "new" and row["shown"] != "uniform noise"]
    return _cells({**network, "rows": others}, counts, cell)
