"""Class goodness beside the label in the input in `docs/microcontrollers.md`, from
`results/microcontroller_label.json`."""

from __future__ import annotations

from typing import Any

from page_text import measured, percent, result, table

NAME = "microcontroller_label"
SETS = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}


def block() -> str:
    """What each is worth, and takes."""
    columns = [
        *("", "epochs", "right answers, validation / test", "passes of an answer"),
        *("instructions of an answer", "arena to classify", "what learns"),
    ]
    rows = [line for row in result(NAME)["rows"] for line in _rows(row)]
    note = (
        "Label in the input: recipe `cpu` with 16, 32 and 64 channels, four channels of random patterns, hard "
        "negatives. C does not take it: its instructions are its multiply-accumulates times those that a "
        "multiply-accumulate of `micro` takes, its arena is the planner's with the label's channels beside it."
    )
    command = "python benchmarks/microcontroller_label.py FOLDER"
    return f"{table(columns, rows)}\n{note}\n\n{measured(NAME, command)}"


def _rows(row: dict[str, Any]) -> list[list[str]]:
    """Of one network: a line for each way to answer. A multiply-accumulate takes the instructions of `micro`."""
    micro = next(other for other in result(NAME)["rows"] if other["kind"] == "micro")
    per_mac = result("microcontroller")["core"]["classify_instructions"] / micro["macs_of_a_pass"]
    right, data = row["accuracy"], SETS[row["data"]]

    def line(name: str, validation: float, test: float, passes: float) -> list[str]:
        return [
            f"{name}, {data}",
            str(row["epochs"]),
            f"{percent(validation)} / {percent(test)}",
            f"{passes:.2f}".removesuffix(".00"),
            f"{passes * per_mac * row['macs_of_a_pass'] / 1e6:,.1f} million",
            f"{row['arena_of_a_pass'] / 1024:,.1f} KiB",
            f"{row['learned'] / 1024:,.1f} KiB",
        ]

    if "shortlist" not in row:
        return [
            line("class goodness (`micro`)", right["validation"]["goodness"], right["test"]["goodness"], 1),
        ]
    short = row["shortlist"]
    return [
        line("label in the input, goodness", right["validation"]["goodness"], right["test"]["goodness"], 10),
        line("label in the input, shortlist", short["validation"], short["test"], short["passes"]),
    ]
