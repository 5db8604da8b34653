"""Inference engines behind one small interface: a graph file in, a function on arrays out.

A backend that was asked for and is not what would run is an error, never a silent fallback.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .core.errors import BackendError, MissingExtra, unknown

Graph = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]

PROVIDERS = {
    "onnxruntime-cpu": "CPUExecutionProvider",
    "onnxruntime-cuda": "CUDAExecutionProvider",
    "onnxruntime-tensorrt": "TensorrtExecutionProvider",
    "onnxruntime-tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}
PLUGIN = "onnxruntime-tensorrt-rtx"  # its provider is a package of its own, which onnxruntime loads
ENGINES = ("tensorrt", "tensorrt-rtx")  # backends that run engines, not graphs: `engine.py`
DEFAULT_BACKEND = "onnxruntime-cpu"
# Arithmetic on shapes: a few integers, which the CUDA provider leaves to the CPU on purpose.
SHAPE_OPS = frozenset({"Add", "Concat", "Div", "Gather", "Mul", "Shape", "Slice", "Squeeze", "Sub", "Unsqueeze"})

WARNING, FATAL = 2, 4  # onnxruntime's severities; the first is its default
INSTALL_CUDA = (
    "for CUDA's and TensorRT's, pip uninstall onnxruntime, then pip install 'ffedge[gpu]' (on a Jetson: "
    "onnxruntime-gpu from NVIDIA's index)"
)


def engine_conflict() -> str | None:
    """What is wrong where both packages that own the module `onnxruntime` are installed; else None."""
    from importlib.metadata import distributions

    if all(list(distributions(name=name)) for name in ("onnxruntime", "onnxruntime-gpu")):
        return "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: pip uninstall one"
    return None


def load_graph(
    file: Path,
    backend: str = DEFAULT_BACKEND,
    threads: int = 0,
    weights: Mapping[str, np.ndarray] | None = None,
    arena: bool = True,
) -> Graph:
    """Load an ONNX graph, with its weights, for repeated use.

    The returned function takes the graph's inputs by name and returns its outputs by name; it may be
    called from several threads, and in a forked process, which opens a session of its own. `threads` 0 means all
    cores; `weights` and `arena` as for `open_session`. Raises `BackendError` where `backend` cannot run the graph
    on this machine.
    """
    session, process = open_session(file, backend, threads, weights, arena), os.getpid()
    names = [output.name for output in session.get_outputs()]
    opening = threading.Lock()

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        nonlocal session, process
        if process != os.getpid():
            with opening:
                if process != os.getpid():
                    require_no_gpu(backend)
                    session, process = open_session(file, backend, threads, weights, arena), os.getpid()
        try:
            return dict(zip(names, session.run(names, dict(inputs)), strict=True))
        except Exception as error:
            raise BackendError(f"{file}: {backend} failed: {_one_line(error)}") from error

    return run


def open_session(
    file: Path,
    backend: str,
    threads: int = 0,
    weights: Mapping[str, np.ndarray] | None = None,
    arena: bool = True,
    profile: Path | None = None,
) -> Any:
    """An `onnxruntime.InferenceSession` on `backend`'s provider.

    `weights` replace the graph's external initializers of those names, float32 in the same shapes; the session
    borrows the arrays, which must not change any more. Without `arena` memory goes back after each call: less is
    held, each call is slower. `profile`: where to record which node runs where. Raises `BackendError` where the
    provider cannot run here at all, or the graph has no such initializer; and where it leaves a node to the CPU
    provider whose operator does more than shapes, if this ONNX Runtime tells (from 1.24 on). `ffexport --provider`
    finds out by running.
    """
    if backend not in PROVIDERS:
        raise unknown("backend", backend, (*PROVIDERS, *ENGINES))
    if problem := provider_problem(backend):
        raise BackendError(f"{backend}: {problem}")
    ort = _import_onnxruntime()
    provider = PROVIDERS[backend]
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = FATAL
    # Threads spin within a call, and not for what may come after: a call as fast, and the cores free between two.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.enable_cpu_mem_arena = options.enable_mem_pattern = arena
    values = [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)) for array in (weights or {}).values()]
    options.add_external_initializers(list(weights or {}), values)
    if backend != DEFAULT_BACKEND:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    # TF32 would cost fp32 parity: it is on by default in the CUDA provider.
    settings = {"use_tf32": "0"} if provider == "CUDAExecutionProvider" else {}
    providers: dict[str, Any] = {"providers": [(provider, settings)]}
    if backend == PLUGIN:
        options.add_provider_for_devices([d for d in ort.get_ep_devices() if d.ep_name == provider], settings)
        providers = {}
    ort.set_default_logger_severity(FATAL)  # what goes wrong is said below, in one line
    try:
        # Without that, where the provider fails the session goes on with another one, and says so on stdout.
        session = ort.InferenceSession(str(file), options, enable_fallback=0, **providers)
    except Exception as error:
        raise BackendError(f"{file}: {backend} cannot load it: {_one_line(error)}") from error
    finally:
        ort.set_default_logger_severity(WARNING)
    _SESSIONS.add(session)
    session.borrowed = values  # they hold the arrays, whose memory the session uses
    if provider not in session.get_providers():
        raise BackendError(
            f"{backend}: {provider} cannot start here, its driver or its libraries (CUDA, cuDNN, TensorRT) are "
            "missing or of another version"
        )
    if backend != DEFAULT_BACKEND:
        require_no_other(file, provider, elsewhere(session, provider))
    return session


def require_no_gpu(backend: str) -> None:
    """Raise `BackendError` for a backend whose GPU was opened before this process was forked."""
    if backend != DEFAULT_BACKEND:
        raise BackendError(f"{backend}: a GPU that is open cannot follow a fork; load the model in the new process")


def _abandon_sessions() -> None:
    """In a forked process: no session of the parent is ever destroyed here, which would wait for its threads."""
    for session in list(_SESSIONS):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
    _SESSIONS.clear()


_SESSIONS: weakref.WeakSet[Any] = weakref.WeakSet()  # that are open in this process
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_sessions)


def elsewhere(session: Any, provider: str) -> list[str]:
    """Nodes that another provider got, but for operators of shapes; none where ONNX Runtime does not tell."""
    parts: Sequence[Any] = getattr(session, "get_provider_graph_assignment_info", list)()
    return [
        f"{node.name} ({node.op_type}, {part.ep_name.removesuffix('ExecutionProvider')})"
        for part in parts
        if part.ep_name != provider
        for node in part.get_nodes()
        if node.op_type not in SHAPE_OPS
    ]


def require_no_other(file: Path, provider: str, wrong: Sequence[str]) -> None:
    """Raise `BackendError` where there are nodes that `provider` does not run."""
    if wrong:
        listed = ", ".join(wrong[:8]) + (f" and {len(wrong) - 8} more" if len(wrong) > 8 else "")
        raise BackendError(f"{file}: {provider} does not run {listed}; it would not be what was asked for")


def provider_problem(backend: str) -> str | None:
    """What keeps `backend`'s provider from this machine, and what helps; None where it is there."""
    ort = _import_onnxruntime()
    provider = PROVIDERS[backend]
    if backend == PLUGIN:
        return _load_plugin()
    if provider in ort.get_available_providers():
        return None
    return (
        f"this onnxruntime has no {provider}; it has {', '.join(ort.get_available_providers())}; "
        f"{engine_conflict() or INSTALL_CUDA}"
    )


@functools.cache
def _load_plugin() -> str | None:
    """Make TensorRT-RTX's provider known to ONNX Runtime; what keeps it from this machine, or None.

    https://nvidia.github.io/TensorRT-RTX-EP-ABI/installation.html
    """
    from . import cuda

    ort = _import_onnxruntime()
    try:
        import onnxruntime_ep_nv_tensorrt_rtx as plugin
    except ImportError:
        return "its plugin is not installed: pip install onnxruntime-ep-nv-tensorrt-rtx"
    if problem := cuda.missing():
        return f"{problem} on this machine"
    try:
        ort.register_execution_provider_library(plugin.get_ep_name(), plugin.get_library_path())
    except Exception as error:
        return _one_line(error)
    if not any(device.ep_name == PROVIDERS[PLUGIN] for device in ort.get_ep_devices()):
        return "no GPU here that it targets"
    return None


def _import_onnxruntime():  # type: ignore[no-untyped-def]
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # since 1.29 it reports home, and writes to flash
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise BackendError(
                f"onnxruntime lacks a package: {_one_line(error)}: pip install 'ffedge[cpu]'"
            ) from error
        raise MissingExtra("onnxruntime", "cpu", no_wheel()) from error
    except ImportError as error:  # a library of the system, such as libstdc++, or of another architecture
        raise BackendError(f"onnxruntime is installed, and does not start here: {_one_line(error)}") from error
    return onnxruntime


def no_wheel() -> str | None:
    """Why pip finds no onnxruntime for this Python, and what else there is; None where it does.

    Its wheels are of 64-bit systems, on Linux with glibc: https://pypi.org/project/onnxruntime/#files
    """
    import platform
    import sysconfig

    machine = platform.machine()
    if sys.maxsize < 1 << 32:
        what, instead = f"32-bit Python ({machine})", "a 64-bit system has one"
    elif "musl" in str(sysconfig.get_config_var("SOABI")):
        what, instead = f"musl, as Alpine has it ({machine})", "a system with glibc, such as Debian, has one"
    else:
        return None
    return (
        f", and has no wheel for {what}: {instead}; or C code that needs no engine: on a workstation, ffexport "
        "--format c"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


# --- so many images and labels at a time, with the same results: beside the results, no more than one call is there


def in_chunks(graph: Graph, batch: int, labels: int) -> Graph:
    """The inference graph `graph`, called with at most `batch` rows and, where it takes them, `labels` labels.

    The batch is the first axis of the input that is not `labels` and of every output; labels are the outputs'
    second axis, but for `features`, which are of images alone. Not for gradients, which are means over the batch.
    """

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        (name,) = inputs.keys() - {"labels"}
        steps = {name: batch, "labels": labels} if "labels" in inputs else {name: batch}
        size = tuple(len(inputs[axis]) for axis in steps)
        whole: dict[str, np.ndarray] = {}
        for some in itertools.product(*map(_pieces, size, steps.values())):
            part = {axis: inputs[axis][piece] for axis, piece in zip(steps, some, strict=True)}
            for output, value in graph(part).items():
                axes = 1 if output == "features" else len(size)
                if output not in whole:
                    whole[output] = np.empty((*size[:axes], *value.shape[axes:]), value.dtype)
                whole[output][some[:axes]] = value
        return whole

    return run


def gradient_in_chunks(
    graph: Graph,
    batch: int,
    rows: Collection[str],
    means: Collection[str],
    instead: Mapping[str, str] | None = None,
) -> Graph:
    """A gradient graph, called with at most `batch` images.

    `rows` names the inputs that are of images: one row for each of them, or, as of negatives, all images' first
    ones first, then all second ones; so are outputs. Those named `means`, gradients and the loss, are means over
    the images, added up call by call: no more than two copies of a gradient are alive, however many calls.

    An output that `instead` names is written over the input that it names it for, piece by piece, where both are of
    one shape: the input is given up, and no second array of its size is needed.
    """

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        count = min(len(inputs[name]) for name in rows)
        if count <= batch:
            return graph(inputs)
        whole: dict[str, np.ndarray] = {}
        for some in _pieces(count, batch):
            outputs = graph({**inputs, **{name: _rows(_columns(inputs[name], count)[:, some]) for name in rows}})
            for output, given in (instead or {}).items():
                if outputs[output].shape[1:] == inputs[given].shape[1:]:
                    whole[output] = inputs[given]
            _add(whole, outputs, some, count, means)
        return whole

    return run


def _pieces(count: int, largest: int) -> list[slice]:
    """All of `count`, in pieces of at most `largest`."""
    return [slice(start, min(start + largest, count)) for start in range(0, count, largest)]


def _add(
    whole: dict[str, np.ndarray], part: dict[str, np.ndarray], some: slice, count: int, means: Collection[str]
) -> None:
    """Put what a graph says of the images `some` of `count` into what it says of all of them, in place."""
    size = some.stop - some.start
    for name, value in part.items():
        if name in means:
            value *= np.float32(size / count)
            whole[name] = np.add(whole[name], value, out=whole[name]) if name in whole else value
        else:
            if name not in whole:
                whole[name] = np.empty((len(value) // size * count, *value.shape[1:]), value.dtype)
            _columns(whole[name], count)[:, some] = _columns(value, size)


def _columns(rows: np.ndarray, images: int) -> np.ndarray:
    """(M·N, …) -> (M, N, …): a view."""
    return rows.reshape(-1, images, *rows.shape[1:])


def _rows(columns: np.ndarray) -> np.ndarray:
    """(M, N, …) -> (M·N, …)."""
    return columns.reshape(-1, *columns.shape[2:])
