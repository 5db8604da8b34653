"""What an export leaves behind: every artefact and how far it is proven, as a table and as `export.json`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from ffruntime.core.bundle import Bundle
from ffruntime.core.graphs import GraphFile, graphs
from ffruntime.core.manifest import Manifest
from ffruntime.core.plan import Plan
from ffruntime.core.precision import PRECISIONS, Precision, in_folder
from ffruntime.core.reading import decode_json
from ffruntime.core.tables import table
from ffruntime.golden import Check

REPORT = "export.json"


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


class ExportReport(Struct, frozen=True):
    """The content of `export.json` (`docs/bundle.md`)."""

    backend: str  # what ran the graphs
    onnx: str  # version of the onnx package
    artefacts: tuple[Artefact, ...]
    checks: tuple[Check, ...]
    device: Plan | None = None


def encode_report(report: ExportReport) -> bytes:
    """The file's content."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def read_report(bundle: Bundle) -> ExportReport | None:
    """The bundle's report; None where it has none, or one of another version of this program."""
    if REPORT not in bundle:
        return None
    try:
        return decode_json(bundle.read(REPORT), ExportReport)
    except ValueError:
        return None


def with_rows(report: ExportReport, rows: Sequence[Artefact]) -> ExportReport:
    """The report with those rows in place of the ones that it has of the same artefacts."""
    names = {row.artefact for row in rows}
    kept = [row for row in report.artefacts if row.artefact not in names]
    return msgspec.structs.replace(report, artefacts=(*kept, *rows))


def bundle_graphs(manifest: Manifest, precision: Precision) -> dict[str, GraphFile]:
    """The ONNX graphs that the bundle holds of a precision, by the names of their files."""
    possible = {in_folder(graph.file, precision): graph for graph in graphs(manifest.network).values()}
    return {name: possible[name] for name in sorted(possible.keys() & manifest.files.keys())}


def exported_precisions(manifest: Manifest) -> list[Precision]:
    """The precisions that the bundle holds graphs of."""
    return [precision for precision in PRECISIONS if bundle_graphs(manifest, precision)]


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
