"""The part of `docs/results.md` on what a network does not know."""

from __future__ import annotations

from typing import Any

from page_text import measured, optional, percent, table

CRITERIA = {"probability": "probability alone", "typicality": "typicality alone", "both": "both"}


def section() -> str:
    """How sure it is, and what it turns away; nothing before that was measured."""
    found = optional("unsure")
    if not found:
        return ""
    networks, rate = found["networks"], f"{1 - found['accepted']:g}"
    exits = " and ".join(percent(network["exit"]["unsure"], 1) for network in networks)
    return (
        "## What it does not know\n\n"
        "[How sure an answer is](device.md#how-sure-an-answer-is): a calibrated probability and a typicality. Two "
        "networks with class goodness, the second trained without the digit 9; temperatures and thresholds are "
        "fitted on validation images, the figures are of test images.\n\n"
        + table(
            [
                "trained on",
                "calibration error, T = 1",
                "at T",
                "unsure at `--unsure 0.01`",
                f"at {rate}",
                "right",
                "right, of the sure at 0.01",
            ],
            [_ordinary(network, rate) for network in networks],
        )
        + "\nThe calibration error is the expected one, of 15 bins (Guo et al. 2017).\n\n"
        f"Strange images, at `--unsure {rate}`: {percent(found['accepted'], 0)} of the validation images are "
        "accepted. In a cell stand the share that is rejected and the AUROC against test images of the digits that "
        "were taught.\n\n"
        + table(
            ["trained on", "shown", "images", *CRITERIA.values(), "in mode `exit`: both, typicality's AUROC"],
            [row for network in networks for row in _strange(network)],
        )
        + f"\nMode `exit` goes by the unit that answers; there {exits} of the ordinary images are unsure.\n\n"
        + measured("unsure", "python benchmarks/unsure.py TEN.ff NINE.ff")
    )


def _taught(network: dict[str, Any]) -> str:
    classes = network["classes"]
    return f"{classes[0]} to {classes[-1]}"


def _ordinary(network: dict[str, Any], rate: str) -> list[str]:
    test = network["test"]
    return [
        _taught(network),
        percent(test["error_before"]),
        percent(test["error"]),
        *(percent(test["unsure"][at]) for at in ("0.01", rate)),
        percent(test["accuracy"]),
        percent(test["accuracy_of_sure"]),
    ]


def _strange(network: dict[str, Any]) -> list[list[str]]:
    return [
        [
            _taught(network),
            name,
            f"{row['images']:,}",
            *(f"{percent(row[which]['rejected'], 1)}, {row[which]['auroc']:.4f}" for which in CRITERIA),
            f"{percent(network['exit']['rejected'][name], 1)}, {network['exit']['auroc'][name]:.4f}",
        ]
        for name, row in network["strange"].items()
    ]
