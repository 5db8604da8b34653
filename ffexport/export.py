"""Export: every graph of a bundle, checked as ONNX, run against the golden vectors, then committed."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import msgspec
import onnx

from ffruntime import bundle
from ffruntime.backend import DEFAULT_BACKEND
from ffruntime.errors import FFError, StorageError
from ffruntime.golden import Check, check, require
from ffruntime.model import Model

from .external import tensor_places, use_external_weights
from .graphs import all_graphs

CHECKS = "export.json"


def export_onnx(path: Path, backend: str = DEFAULT_BACKEND) -> list[Check]:
    """Add the ONNX graphs to the bundle at `path`; return the golden check's table.

    The graphs are made and proven in a scratch copy first. Raises `ParityError` where they do not reproduce the
    golden vectors, `StorageError` where the bundle cannot be written; it is then as it was.
    """
    manifest = bundle.read_manifest(path)
    bundle.read_weights(path, manifest)  # refuses damaged ones
    places = tensor_places(path / bundle.WEIGHTS)
    graphs = {
        f"{name}.onnx": use_external_weights(model, places).SerializeToString(deterministic=True)
        for name, model in all_graphs(manifest.network).items()
    }
    try:
        checks = _prove(path, manifest, graphs, backend)
    except OSError as error:
        raise StorageError(
            f"{tempfile.gettempdir()}: no scratch copy can be made there: {error.strerror}"
        ) from error
    require(checks, backend)
    report = {"backend": backend, "onnx": onnx.__version__, "checks": msgspec.to_builtins(checks)}
    text = msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"
    bundle.write(path, manifest, {**graphs, CHECKS: text})
    return checks


def _prove(path: Path, manifest: bundle.Manifest, graphs: dict[str, bytes], backend: str) -> list[Check]:
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "model.ff"
        copy.mkdir()
        for name in (bundle.WEIGHTS, bundle.GOLDEN):
            shutil.copyfile(bundle.verified(path, manifest, name), copy / name)
        kept = {name: manifest.files[name] for name in (bundle.WEIGHTS, bundle.GOLDEN)}
        bundle.write(copy, msgspec.structs.replace(manifest, files=kept), graphs)
        for name in graphs:
            _check_onnx(copy / name)
        return check(Model(copy, backend))


def _check_onnx(file: Path) -> None:
    try:
        onnx.checker.check_model(str(file), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise FFError(f"{file.name}: not valid ONNX, a defect of ffexport: {error}") from error
