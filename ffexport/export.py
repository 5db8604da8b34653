"""Export: a bundle's graphs in every precision asked for, made and proven in a scratch copy, committed at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from msgspec import structs

from ffruntime.backend import DEFAULT_BACKEND
from ffruntime.core.bundle import CALIBRATION, Bundle, write_bundle
from ffruntime.core.cost import exit_shares
from ffruntime.core.data import Examples
from ffruntime.core.manifest import (
    EXEMPLARS,
    EXIT,
    GOLDEN,
    SHORTLIST,
    STATISTICS,
    WEIGHTS,
    EarlyExit,
    Shortlist,
)
from ffruntime.core.plan import Plan
from ffruntime.core.precision import Precision
from ffruntime.engine import FOLDER
from ffruntime.golden import require
from ffruntime.lock import writing
from ffruntime.model import Model
from ffruntime.session import Session

from .artefacts import REPORT, Artefact, ExportReport, encode_report, exported_precisions, read_report
from .decisions import Progress, affordable, scores, validation_images
from .gradient_graphs import all_gradient_graphs
from .inference_graphs import all_graphs
from .onnx_files import Files, graph_bytes, tensor_places
from .prove import prove, scratch_copy
from .quantize import quantize
from .thresholds import answers, calibrate_exit, calibrate_shortlist


def silent(_what: str, _share: float) -> None:
    """No progress to see."""


def export_onnx(
    path: Path,
    precisions: Sequence[Precision] = (),
    backend: str = DEFAULT_BACKEND,
    data: Path | None = None,
    device: Plan | None = None,
    progress: Progress = silent,
) -> ExportReport:
    """Add the fp32 graphs, and the weights and graphs of `precisions`, to the bundle at `path`.

    `data`: where data sets lie, for decisions on validation images. All is made and proven in a scratch copy first,
    and no other process may write the bundle meanwhile. Raises `ParityError` where a graph does not reproduce the
    golden vectors, `StorageError` where the bundle cannot be written; it is then as it was.
    """
    with writing(path):
        return _export(Bundle(path), precisions, backend, data, device, progress)


def _export(
    bundle: Bundle,
    precisions: Sequence[Precision],
    backend: str,
    data: Path | None,
    device: Plan | None,
    progress: Progress,
) -> ExportReport:
    bundle.weights()  # refuses damaged ones
    others = [precision for precision in precisions if precision != "fp32"]
    if others:
        bundle.verified(EXEMPLARS)  # they say which layers a precision can have
    files, validation = fp32_graphs(bundle), _validation(bundle, data)
    judged = [name for name in (WEIGHTS, GOLDEN, EXEMPLARS, STATISTICS) if name in bundle]  # by what answers
    with scratch_copy(bundle, judged) as copy:
        copy = write_bundle(copy.path, copy.manifest, files)
        calibrated = _calibrated(copy, backend, progress)
        copy = write_bundle(copy.path, structs.replace(copy.manifest, **calibrated), {})
        if others:
            files |= _quantized(copy, others, backend, progress)
            copy = Bundle(copy.path)
        artefacts, checks = prove(copy, others, backend, validation, progress)
    require(checks, backend)
    kept = _other_precisions(bundle, ["fp32", *others])
    report = ExportReport(backend, onnx.__version__, (*artefacts, *kept), tuple(checks), device)
    manifest = structs.replace(bundle.manifest, **calibrated)
    written = write_bundle(bundle.path, manifest, {**files, REPORT: encode_report(report)})
    made: tuple[Precision, ...] = ("fp32", *others)
    for precision in made:  # once more from where it is: an engine may refuse what is not beside it
        Model(written, session=Session(backend, precision), state=False).graph("goodness")
    return report


def check_export(
    bundle: Bundle, backend: str = DEFAULT_BACKEND, data: Path | None = None, progress: Progress = silent
) -> ExportReport:
    """All checks of an export that is there, in every precision that it has; nothing is written."""
    validation = _validation(bundle, data)
    artefacts, checks = prove(bundle, exported_precisions(bundle.manifest), backend, validation, progress)
    return ExportReport(backend, onnx.__version__, tuple(artefacts), tuple(checks))


def fp32_graphs(bundle: Bundle) -> Files:
    """Every inference and every gradient graph of a bundle."""
    network, learning = bundle.manifest.network, bundle.manifest.learning
    inference = graph_bytes(all_graphs(network), tensor_places(bundle.path / WEIGHTS))
    return inference | graph_bytes(all_gradient_graphs(network, learning.loss if learning else None), {})


def _quantized(copy: Bundle, precisions: Sequence[Precision], backend: str, progress: Progress) -> Files:
    """The files of those precisions, judged by what fp32 decides on the exemplars."""
    exemplars = affordable(copy.exemplars(), copy.manifest.network, len(copy.manifest.classes))
    reference = scores(Model(copy, session=Session(backend)), exemplars, progress, "exemplars")
    files: Files = {}
    for precision in precisions:  # the copy has what the one before has added
        files |= quantize(Bundle(copy.path), precision, exemplars, reference, backend, progress)
    return files


def _calibrated(copy: Bundle, backend: str, progress: Progress) -> dict[str, Shortlist | EarlyExit | None]:
    """What the manifest says of the modes `shortlist` and `exit`, from the exemplars; nothing without any, or of a
    mode that the network has not."""
    manifest, model = copy.manifest, Model(copy, session=Session(backend), state=False)
    exemplars = affordable(copy.exemplars(CALIBRATION), manifest.network, len(manifest.classes))
    modes = manifest.inference_modes if len(exemplars) else ()
    found: dict[str, Shortlist | EarlyExit | None] = {"shortlist": None, "exit": None}
    if SHORTLIST in modes:
        decided = scores(model, exemplars, progress, SHORTLIST)
        totals = decided["goodness"] + np.float32(manifest.logit_weight) * decided["classifier"]
        always = manifest.shortlist.always if manifest.shortlist else ()
        found["shortlist"] = structs.replace(calibrate_shortlist(decided["classifier"], totals), always=always)
    if EXIT in modes:
        every = affordable(copy.exemplars(), manifest.network, len(manifest.classes))
        chosen, shown = (answers(model, images, progress) for images in (exemplars, every))
        found["exit"] = calibrate_exit(chosen, shown, exit_shares(manifest.network))
    return found


def _validation(bundle: Bundle, data: Path | None) -> Examples | None:
    """The trainer's validation images, where they are at hand."""
    if data is None or EXEMPLARS not in bundle:
        return None
    return validation_images(bundle.manifest, bundle.exemplars(), data)


def _other_precisions(bundle: Bundle, made: Sequence[Precision]) -> list[Artefact]:
    """Rows of what an earlier export made, and this one leaves as it is."""
    report = read_report(bundle)
    rows = [row for row in report.artefacts if row.artefact in bundle] if report else []
    return [row for row in rows if row.precision not in made or row.artefact.startswith(f"{FOLDER}/")]
