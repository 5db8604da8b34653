"""Inference engines behind one small interface: a graph file in, a function on arrays out.

A backend that was asked for and is not what would run is an error, never a silent fallback.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from .errors import BackendError, MissingExtra, unknown

Graph = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]

PROVIDERS = {"onnxruntime-cpu": "CPUExecutionProvider", "onnxruntime-cuda": "CUDAExecutionProvider"}
DEFAULT_BACKEND = "onnxruntime-cpu"


WARNING, FATAL = 2, 4  # onnxruntime's severities; the first is its default
INSTALL_CUDA = (
    "for CUDA's, pip uninstall onnxruntime, then pip install 'ffedge[gpu]' (on a Jetson: onnxruntime-gpu from "
    "NVIDIA's index)"
)


def engine_conflict() -> str | None:
    """What is wrong where both packages that own the module `onnxruntime` are installed; else None."""
    from importlib.metadata import distributions

    if all(list(distributions(name=name)) for name in ("onnxruntime", "onnxruntime-gpu")):
        return "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: pip uninstall one"
    return None


def load_graph(file: Path, backend: str = DEFAULT_BACKEND, threads: int = 0) -> Graph:
    """Load an ONNX graph, with its weights, for repeated use.

    The returned function takes the graph's inputs by name and returns its outputs by name; it may be
    called from several threads. `threads` 0 means all cores. Raises `BackendError` where `backend`
    cannot run the graph on this machine.
    """
    if backend not in PROVIDERS:
        raise unknown("backend", backend, PROVIDERS)
    ort = _import_onnxruntime()
    provider = PROVIDERS[backend]
    if provider not in ort.get_available_providers():
        raise BackendError(
            f"{backend}: this onnxruntime has no {provider}; it has "
            f"{', '.join(ort.get_available_providers())}; {engine_conflict() or INSTALL_CUDA}"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = FATAL
    # TF32 would cost fp32 parity: it is on by default in the CUDA provider.
    settings = {"use_tf32": "0"} if provider == "CUDAExecutionProvider" else {}
    ort.set_default_logger_severity(FATAL)  # what goes wrong is said below, in one line
    try:
        session = ort.InferenceSession(str(file), options, providers=[(provider, settings)])
    except Exception as error:
        raise BackendError(f"{file}: {backend} cannot load it: {_one_line(error)}") from error
    finally:
        ort.set_default_logger_severity(WARNING)
    if provider not in session.get_providers():
        raise BackendError(
            f"{backend}: {provider} cannot start here, its driver or its libraries (CUDA, cuDNN) are missing or of "
            "another version"
        )
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            return dict(zip(names, session.run(names, dict(inputs)), strict=True))
        except Exception as error:
            raise BackendError(f"{file}: {backend} failed: {_one_line(error)}") from error

    return run


def _import_onnxruntime():  # type: ignore[no-untyped-def]
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "cpu") from error
    return onnxruntime


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
