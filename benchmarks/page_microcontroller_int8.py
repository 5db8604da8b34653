"""The figures of int8 in `docs/microcontrollers.md`, from `results/microcontroller_int8.json`."""

from __future__ import annotations

from typing import Any

from page_text import measured, percent, result, table

NAME = "microcontroller_int8"


def block() -> str:
    """What a network takes in int8, and what it is worth, beside float32."""
    found = result(NAME)
    columns = ["", "all in float32", "units in int8, readouts learn", "the last unit in float32, it learns"]
    command = "python benchmarks/microcontroller_int8.py --test --nine nine.ff micro.ff"
    note = (
        "Recipe `micro` on MNIST and an emulated Cortex-M4F, as above. A digit never seen: 20 examples, each after "
        "two exemplars of others, four times; with the same part of the network learning all in float32, "
        f"{_digit(found, 'fp32')} (readouts) and {_digit(found, 'fp32 last')} (the last unit, too)."
    )
    return f"{table(columns, _rows(found))}\n{note}\n\n{measured(NAME, command)}"


def _rows(found: dict[str, Any]) -> list[list[str]]:
    kinds, core, right = found["kinds"], found["core"], found["validation"]
    stack = {name: core[name]["classify_stack"] for name in ("fp32", "int8")}
    return [
        [
            "right answers, 10,000 validation images",
            *(percent(right[kind]) for kind in ("fp32", "int8", "int8 last")),
        ],
        ["right answers, test images (read once)", "", percent(found["test"]), ""],
        [
            "RAM to classify, arena and stack",
            _kib(kinds["fp32"]["classify"] + stack["fp32"]),
            _kib(kinds["int8"]["classify"] + stack["int8"]),
            f"{_kib(kinds['int8 last']['classify'])} without stack",
        ],
        ["arena to learn", *(_kib(kinds[kind]["learn"]) for kind in ("fp32", "int8", "int8 last"))],
        ["weights and tables in flash", *(_kib(kinds[kind]["weights"]) for kind in ("fp32", "int8", "int8 last"))],
        [
            "code to classify, `-Os`",
            _kib(core["fp32"]["classifying_code"]),
            _kib(core["int8"]["classifying_code"]),
            "",
        ],
        [
            "instructions of a pass",
            _millions(core["fp32"]["classify_instructions"]),
            _millions(core["int8"]["classify_instructions"]),
            "",
        ],
        [
            "a digit never seen: it / the others",
            "",
            _digit(found, "int8"),
            _digit(found, "int8 last"),
        ],
    ]


def _digit(found: dict[str, Any], kind: str) -> str:
    row = found["new_digit"][kind]
    return f"{percent(row['new'], 1)} / {percent(row['others'], 1)}"


def _kib(size: int) -> str:
    return f"{size / 1024:,.1f} KiB"


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} million"
