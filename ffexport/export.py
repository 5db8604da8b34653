"""Export: a bundle's graphs in every precision asked for, made and proven in a scratch copy, committed at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from msgspec import structs

from ffruntime.backend import DEFAULT_BACKEND
from ffruntime.core import transition as bundle
from ffruntime.core.data import Examples
from ffruntime.core.manifest import EXEMPLARS, GOLDEN, WEIGHTS, Manifest, Precision, Shortlist
from ffruntime.core.plan import Plan
from ffruntime.engine import FOLDER
from ffruntime.golden import require
from ffruntime.model import Model
from ffruntime.session import Session

from .assess import Progress, affordable, scores
from .external import tensor_places, use_external_weights
from .gradients import all_gradient_graphs
from .graphs import all_graphs
from .lower import Files, Lowering
from .prove import exported_precisions, prove, read_exemplars
from .report import REPORT, Report, encode_report, read_report
from .scratch import scratch_copy
from .shortlist import calibrate
from .table import Artefact
from .validation import validation_images


def silent(_what: str, _share: float) -> None:
    """No progress to see."""


def export_onnx(
    path: Path,
    precisions: Sequence[Precision] = (),
    backend: str = DEFAULT_BACKEND,
    data: Path | None = None,
    device: Plan | None = None,
    progress: Progress = silent,
) -> Report:
    """Add the fp32 graphs, and the weights and graphs of `precisions`, to the bundle at `path`.

    `data`: where data sets lie, for decisions on validation images. All is made and proven in a scratch copy first.
    Raises `ParityError` where a graph does not reproduce the golden vectors, `StorageError` where the bundle cannot
    be written; it is then as it was.
    """
    manifest = bundle.read_manifest(path)
    bundle.read_weights(path, manifest)  # refuses damaged ones
    lowered = [precision for precision in precisions if precision != "fp32"]
    files, validation = fp32_graphs(path, manifest), _validation(path, manifest, data)
    names = [name for name in (WEIGHTS, GOLDEN, EXEMPLARS) if name in manifest.files]
    with scratch_copy(path, manifest, names) as copy:
        bundle.write(copy, bundle.read_manifest(copy), files)
        if lowered:
            files |= _lower(copy, lowered, backend, progress)
        artefacts, checks = prove(copy, lowered, backend, validation, progress)
        shortlist = _shortlist(copy, backend, progress)
    require(checks, backend)
    report = Report(
        backend,
        onnx.__version__,
        (*artefacts, *_other_precisions(path, manifest, ["fp32", *lowered])),
        tuple(checks),
        device,
    )
    bundle.write(path, structs.replace(manifest, shortlist=shortlist), {**files, REPORT: encode_report(report)})
    return report


def check_export(
    path: Path, backend: str = DEFAULT_BACKEND, data: Path | None = None, progress: Progress = silent
) -> Report:
    """All checks of an export that is there, in every precision that it has; nothing is written."""
    manifest = bundle.read_manifest(path)
    validation = _validation(path, manifest, data)
    artefacts, checks = prove(path, exported_precisions(manifest), backend, validation, progress)
    return Report(backend, onnx.__version__, tuple(artefacts), tuple(checks))


def fp32_graphs(path: Path, manifest: Manifest) -> Files:
    places = tensor_places(path / WEIGHTS)
    models = {name: use_external_weights(model, places) for name, model in all_graphs(manifest.network).items()}
    models |= all_gradient_graphs(manifest.network, manifest.learning.loss if manifest.learning else None)
    return {f"{name}.onnx": model.SerializeToString(deterministic=True) for name, model in models.items()}


def _lower(copy: Path, precisions: Sequence[Precision], backend: str, progress: Progress) -> Files:
    """The files of those precisions, judged by what fp32 decides on the exemplars."""
    manifest = bundle.read_manifest(copy)
    exemplars = affordable(read_exemplars(copy, manifest), manifest.network, len(manifest.classes))
    reference = scores(Model(copy, session=Session(backend)), exemplars, progress, "exemplars")
    weights, calibration = bundle.read_weights(copy, manifest), read_exemplars(copy, manifest, part=0)
    files: Files = {}
    for precision in precisions:
        manifest = bundle.read_manifest(copy)  # with what the precision before has added
        lowering = Lowering(copy, manifest, weights, precision, exemplars, reference, backend, progress)
        files |= lowering.run(calibration)
    return files


def _shortlist(copy: Path, backend: str, progress: Progress) -> Shortlist | None:
    """Calibrated on the exemplars of part 0; None without exemplars, or with one inference mode alone."""
    manifest = bundle.read_manifest(copy)
    if EXEMPLARS not in manifest.files or len(manifest.modes) < 2:
        return None
    exemplars = affordable(read_exemplars(copy, manifest, part=0), manifest.network, len(manifest.classes))
    decided = scores(Model(copy, session=Session(backend)), exemplars, progress, "shortlist")
    always = manifest.shortlist.always if manifest.shortlist else ()
    return structs.replace(calibrate(decided["classifier"], decided["goodness"]), always=always)


def _validation(path: Path, manifest: Manifest, data: Path | None) -> Examples | None:
    if data is None or EXEMPLARS not in manifest.files:
        return None
    return validation_images(manifest, read_exemplars(path, manifest), data)


def _other_precisions(path: Path, manifest: Manifest, made: Sequence[Precision]) -> list[Artefact]:
    """Rows of what an earlier export made, and this one leaves as it is."""
    report = read_report(path, manifest)
    rows = [row for row in report.artefacts if row.artefact in manifest.files] if report else []
    return [row for row in rows if row.precision not in made or row.artefact.startswith(f"{FOLDER}/")]
