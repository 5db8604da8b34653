"""Precisions of inference, and where each one's graphs and weights lie in a bundle."""

from __future__ import annotations

from typing import Literal, TypeAlias

Precision: TypeAlias = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


def in_folder(name: str, precision: Precision) -> str:
    """A file's name within the bundle: fp32 lies at its top, every other precision in a folder of its own."""
    return name if precision == "fp32" else f"{precision}/{name}"
