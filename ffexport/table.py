"""The table that ends every export: one row for each artefact."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from ffruntime.core.manifest import Precision
from ffruntime.core.tables import table


class Artefact(Struct, frozen=True):
    """A file of an export, and how far it is proven. Shares are of 1; None where nothing was to be measured."""

    artefact: str  # its name in the bundle
    size: int  # bytes
    precision: Precision
    parity: float | None  # largest error against the golden values, as a share of the largest of them
    verdict: str
    exemplars: float | None = None  # right answers on exemplars
    validation: float | None = None  # right answers on validation images
    agree: int | None = None  # decisions, on both, that are fp32's …
    decisions: int | None = None  # … of so many


def artefact_table(rows: Sequence[Artefact]) -> str:
    """The rows for people."""
    cells = [
        (
            row.artefact,
            f"{row.size:,}",
            row.precision,
            "" if row.parity is None else f"{row.parity:.1e}",
            _percent(row.exemplars),
            _percent(row.validation),
            "" if row.agree is None else f"{row.agree}/{row.decisions}",
            row.verdict,
        )
        for row in rows
    ]
    header = ("artefact", "bytes", "precision", "max error", "exemplars", "validation", "as fp32", "verdict")
    return table(header, cells)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"
