"""The report of an export, `export.json` in the bundle: every artefact, and how far it is proven."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from ffruntime.core import transition as bundle
from ffruntime.core.plan import Plan
from ffruntime.golden import Check

from .table import Artefact

REPORT = "export.json"


class Report(Struct, frozen=True):
    """What an export leaves behind (`docs/bundle.md`)."""

    backend: str  # what ran the graphs
    onnx: str  # version of the onnx package
    artefacts: tuple[Artefact, ...]
    checks: tuple[Check, ...]
    device: Plan | None = None


def encode_report(report: Report) -> bytes:
    """The file's content."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def read_report(path: Path, manifest: bundle.Manifest) -> Report | None:
    """The bundle's report; None where it has none, or one of an earlier version of this program."""
    if REPORT not in manifest.files:
        return None
    try:
        return msgspec.json.decode(bundle.verified(path, manifest, REPORT).read_bytes(), type=Report)
    except msgspec.DecodeError:
        return None


def with_rows(report: Report, rows: Sequence[Artefact]) -> Report:
    """The report with those rows in place of the ones that it has of the same artefacts."""
    names = {row.artefact for row in rows}
    kept = [row for row in report.artefacts if row.artefact not in names]
    return msgspec.structs.replace(report, artefacts=(*kept, *rows))
