"""The precisions of inference: their names, what a value may be off by in each, and where a bundle keeps its files.

It imports next to nothing, so that a command's help can name them at once.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from .errors import unknown

Precision: TypeAlias = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
# What a value may be off by, as a share of the largest one beside it. fp32: rounding. The others tell a wrong graph
# from a coarse one, and no more: fp16 rounds to 2⁻¹¹ and int8 to 1/127 of the largest value, in every layer, and a
# mean of squares doubles that. Whether a precision is *good* enough, the decisions on exemplars say (`ffexport`).
TOLERANCE = 1e-4
TOLERANCES: dict[Precision, float] = {"fp32": TOLERANCE, "fp16": 1e-2, "int8": 1e-1}


def known_precision(name: str) -> Precision:
    """A precision by its name. Raises `UsageError` that lists those there are."""
    for precision in PRECISIONS:
        if precision == name:
            return precision
    raise unknown("precision", name, PRECISIONS)


def in_folder(name: str, precision: Precision) -> str:
    """A file's name within the bundle: fp32 lies at its top, every other precision in a folder of its own."""
    return name if precision == "fp32" else f"{precision}/{name}"
