"""The proof of an export: every graph checked as ONNX, run on the golden vectors, and asked to decide on images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from ffruntime.core import transition as bundle
from ffruntime.core.data import Examples
from ffruntime.core.errors import FFError
from ffruntime.core.manifest import EXEMPLARS, PRECISIONS, WEIGHTS, Manifest, Precision, in_folder
from ffruntime.golden import Check, check
from ffruntime.model import Model
from ffruntime.session import Session

from .assess import LOSS, Progress, Scores, affordable, compare, scores
from .precision import layers
from .table import Artefact

Sets = Mapping[str, Examples]  # exemplars, validation: where they are at hand
Decisions = Mapping[str, Scores]  # set of images -> scores on them


def exported_precisions(manifest: Manifest) -> list[Precision]:
    """The precisions that the bundle holds graphs of."""
    return [precision for precision in PRECISIONS if in_folder("goodness.onnx", precision) in manifest.files]


def read_exemplars(path: Path, manifest: Manifest, part: int | None = None) -> Examples:
    """The bundle's exemplars, all or those of one part. Raises `BundleError` where it has none."""
    tensors = bundle.read_tensors(path, manifest, EXEMPLARS)
    chosen = slice(None) if part is None else tensors["part"] == part
    return Examples(tensors["images"][chosen], tensors["labels"][chosen])


def prove(
    path: Path, precisions: Sequence[Precision], backend: str, validation: Examples | None, progress: Progress
) -> tuple[list[Artefact], list[Check]]:
    """A row for every graph and weights file of fp32 and of `precisions`, and the golden check's rows.

    Reads the bundle at `path` and writes nothing. Raises `BundleError` where a file is missing or damaged,
    `FFError` where a graph is not valid ONNX.
    """
    manifest = bundle.read_manifest(path)
    sets = {} if EXEMPLARS not in manifest.files else {"exemplars": read_exemplars(path, manifest)}
    if validation is not None:
        sets["validation"] = validation
    sets = {name: affordable(images, manifest.network, len(manifest.classes)) for name, images in sets.items()}
    artefacts: list[Artefact] = []
    checks: list[Check] = []
    reference: Decisions = {}
    for precision in dict.fromkeys(("fp32", *precisions)):
        model = Model(path, session=Session(backend, precision), state=False)
        graphs = [n for n in manifest.files if n.endswith(".onnx") and in_folder(Path(n).name, precision) == n]
        for name in graphs:
            check_onnx(bundle.verified(path, manifest, name))
        progress(f"{precision}: golden vectors", 0)
        proven = check(model)
        decided = {name: scores(model, images, progress, name) for name, images in sets.items()}
        reference = reference or decided
        artefacts += [_graph_row(manifest, name, precision, proven, sets, decided, reference) for name in graphs]
        artefacts.append(_weights_row(path, manifest, precision))
        checks += proven
    return artefacts, checks


def check_onnx(file: Path) -> None:
    """The ONNX checker's full check, strict shape inference included. Raises `FFError`."""
    try:
        onnx.checker.check_model(str(file), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise FFError(f"{file.name}: not valid ONNX, a defect of ffexport: {error}") from error


def _graph_row(
    manifest: Manifest,
    name: str,
    precision: Precision,
    checks: Sequence[Check],
    sets: Sets,
    decided: Decisions,
    reference: Decisions,
) -> Artefact:
    graph = Path(name).stem
    mine = [row for row in checks if row.graph == graph]
    parity = max((row.relative for row in mine), default=None)
    verdict = "ok" if all(row.passed for row in mine) else "FAILED"
    size = manifest.files[name].size
    if graph not in manifest.modes or not sets:
        return Artefact(name, size, precision, parity, verdict)
    outcomes = {
        what: compare(decided[what][graph], reference[what][graph], images.labels) for what, images in sets.items()
    }
    for what, outcome in outcomes.items():
        before = compare(reference[what][graph], reference[what][graph], sets[what].labels)
        lost = (before.right - outcome.right) / outcome.images
        if lost > max(LOSS[precision], 1 / outcome.images):
            verdict += f", but loses {100 * lost:.2f} points of {what}"
    return Artefact(
        name,
        size,
        precision,
        parity,
        verdict,
        **{what: outcome.right / outcome.images for what, outcome in outcomes.items()},
        agree=sum(outcome.agree for outcome in outcomes.values()),
        decisions=sum(outcome.images for outcome in outcomes.values()),
    )


def _weights_row(path: Path, manifest: Manifest, precision: Precision) -> Artefact:
    name = in_folder(WEIGHTS, precision)
    tensors = bundle.read_tensors(path, manifest, name)
    kept = [layer for layer in layers(manifest.network) if tensors[f"{layer}.weight"].dtype == np.float32]
    verdict = "ok" if precision == "fp32" or not kept else f"ok, in fp32: {' '.join(kept)}"
    return Artefact(name, manifest.files[name].size, precision, None, verdict)
