"""The proof of an export: every graph is checked as ONNX, runs on the golden vectors, and decides on images.

What is new is tried in a scratch copy of the bundle: what is not proven there never reaches the real one.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
from msgspec import structs

from ffruntime import lock
from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.data import Examples
from ffruntime.core.errors import FFError, StorageError
from ffruntime.core.graphs import GraphFile
from ffruntime.core.layers import tensors
from ffruntime.core.manifest import EXEMPLARS, EXIT, WEIGHTS, Manifest
from ffruntime.core.precision import Precision, in_folder
from ffruntime.golden import Check, check
from ffruntime.model import Model
from ffruntime.session import Session

from .artefacts import Artefact, bundle_graphs
from .decisions import EXIT_MAY_LOSE, MAY_LOSE, Progress, Scores, affordable, compare, lost_beyond, scores

Sets: TypeAlias = Mapping[str, Examples]  # exemplars, validation: where they are at hand
SetScores: TypeAlias = Mapping[str, Scores]  # set of images -> scores on them


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder elsewhere, for as long as the block runs.

    Raises `StorageError` where it cannot be made, or where there is no space for what the block writes to it.
    """
    try:
        with lock.scratch_folder() as folder:
            yield folder
    except OSError as error:
        raise StorageError(
            f"{tempfile.gettempdir()}: no scratch copy can be made there: {error.strerror}"
        ) from error


@contextmanager
def scratch_copy(bundle: Bundle, names: Iterable[str]) -> Iterator[Bundle]:
    """A bundle of those files alone, their hashes checked, in a scratch folder."""
    with scratch_folder() as folder:
        copy, kept = folder / "model.ff", {name: bundle.manifest.files[name] for name in names}
        for name in kept:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.verified(name), copy / name)
        yield write_bundle(copy, structs.replace(bundle.manifest, files=kept), {})


def prove(
    bundle: Bundle, precisions: Sequence[Precision], backend: str, validation: Examples | None, progress: Progress
) -> tuple[list[Artefact], list[Check]]:
    """A row for every graph and weights file of fp32 and of `precisions`, and the golden check's rows.

    Reads the bundle and writes nothing. Raises `BundleError` where a file is missing or damaged, `FFError` where a
    graph is not valid ONNX.
    """
    manifest = bundle.manifest
    sets = {"exemplars": bundle.exemplars()} if EXEMPLARS in bundle else {}
    if validation is not None:
        sets["validation"] = validation
    sets = {name: affordable(images, manifest.network, len(manifest.classes)) for name, images in sets.items()}
    artefacts: list[Artefact] = []
    checks: list[Check] = []
    reference: SetScores = {}
    for precision in dict.fromkeys(("fp32", *precisions)):
        model = Model(bundle, session=Session(backend, precision), state=False)
        graphs = bundle_graphs(manifest, precision)
        for name in graphs:
            check_onnx(bundle.verified(name))
        progress(f"{precision}: golden vectors", 0)
        proven = check(model)
        decided = {name: scores(model, images, progress, name) for name, images in sets.items()}
        reference = reference or decided
        artefacts += [
            _graph_row(manifest, name, graph, precision, proven, sets, decided, reference)
            for name, graph in graphs.items()
        ]
        artefacts.append(_weights_row(bundle, precision))
        checks += proven
    return artefacts, checks


def check_onnx(file: Path) -> None:
    """The ONNX checker's full check, strict shape inference included. Raises `FFError`."""
    import onnx  # lazily: building engines, for which `scratch_copy` is here, needs no onnx

    try:
        onnx.checker.check_model(str(file), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise FFError(f"{file.name}: not valid ONNX, a defect of ffexport: {error}") from error


def _graph_row(
    manifest: Manifest,
    name: str,
    graph: GraphFile,
    precision: Precision,
    checks: Sequence[Check],
    sets: Sets,
    decided: SetScores,
    reference: SetScores,
) -> Artefact:
    mine, mode = (
        [row for row in checks if row.graph == graph.name],
        graph.kind,
    )  # a graph that answers is of the kind that its mode is called
    parity = max((row.relative for row in mine), default=None)
    verdict = "ok" if all(row.passed for row in mine) else "FAILED"
    size = manifest.files[name].size
    if mode not in manifest.modes or not sets:
        return Artefact(name, size, precision, parity, verdict)
    decisions = {
        what: compare(decided[what][mode], reference[what][mode], images.labels) for what, images in sets.items()
    }
    for what, images in sets.items():
        before = reference[what][mode]
        if lost := lost_beyond(decided[what][mode], before, images.labels, MAY_LOSE[precision]):
            verdict += f", but loses {100 * lost:.2f} points of {what}"
        if mode == "goodness" and EXIT in decided[what]:
            allowed = MAY_LOSE[precision] + EXIT_MAY_LOSE
            if lost := lost_beyond(decided[what][EXIT], before, images.labels, allowed):
                verdict += f", but mode {EXIT} loses {100 * lost:.2f} points of {what}"
    return Artefact(
        name,
        size,
        precision,
        parity,
        verdict,
        **{what: now.right / now.images for what, now in decisions.items()},
        agree=sum(now.agree for now in decisions.values()),
        decisions=sum(now.images for now in decisions.values()),
    )


def _weights_row(bundle: Bundle, precision: Precision) -> Artefact:
    """The row of a precision's weights, which says what of them could be quantized and is not."""
    name = in_folder(WEIGHTS, precision)
    stored = bundle.tensors(name)
    kept = [
        tensor.layer.name
        for tensor in tensors(bundle.manifest.network)
        if tensor.layer and tensor.layer.quantizable and tensor.role == "weight"
        if stored[tensor.name].dtype == np.float32
    ]
    verdict = "ok" if precision == "fp32" or not kept else f"ok, in fp32: {' '.join(kept)}"
    return Artefact(name, bundle.manifest.files[name].size, precision, None, verdict)
