"""TensorRT and TensorRT-RTX engines: what a bundle says of one, which one fits this machine, and running it.

The two libraries have one Python API. Memory on the GPU is held through the driver (`cuda.py`), so that an engine
needs no package beside its own library. What was learned replaces an engine's weights in place, and the engine
proves itself before it is used. Written against the documented API; not yet run on a GPU.
"""

from __future__ import annotations

import importlib
import os
import re
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from msgspec import Meta, Struct

from . import cuda
from .backend import DEFAULT_BACKEND, Graph, gradient_in_chunks, in_chunks, load_graph, require_no_gpu
from .core.bundle import Bundle
from .core.data import to_unit_interval
from .core.errors import BackendError, BundleError, MissingExtra, ParityError
from .core.graphs import graphs
from .core.manifest import GOLDEN, WEIGHTS, Manifest
from .core.precision import TOLERANCE, Precision, in_folder
from .core.reading import decode_json

Library: TypeAlias = Literal["tensorrt", "tensorrt-rtx"]
LIBRARIES: tuple[Library, ...] = ("tensorrt", "tensorrt-rtx")
# Each library's module, by its usual name, and as the wheels alone bring it (the other is in a source package).
MODULES = {"tensorrt": ("tensorrt", "tensorrt_bindings"), "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}
INSTALL = {
    "tensorrt": "JetPack brings it on a Jetson; elsewhere pip install 'ffedge[tensorrt]' (NVIDIA's package index)",
    "tensorrt-rtx": "pip install 'ffedge[rtx]'",
}
FOLDER = "engines"


class Shapes(Struct, frozen=True, forbid_unknown_fields=True):
    """Of an input: the smallest and the largest shape that the engine takes, and the one it is made for."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


class Target(Struct, frozen=True, forbid_unknown_fields=True):
    """The GPUs an engine runs on: compute capabilities, and whether newer ones than the last run it, too."""

    compute_capabilities: Annotated[tuple[str, ...], Meta(min_length=1)]
    newer: bool = False

    @property
    def name(self) -> str:
        """As a folder's name says it: `sm89`, `sm80+`."""
        last = self.compute_capabilities[0] if self.newer else "-".join(self.compute_capabilities)
        return f"sm{last.replace('.', '')}{'+' if self.newer else ''}"

    def runs_on(self, compute_capability: str) -> bool:
        """Whether a GPU of that compute capability runs the engine."""
        if compute_capability in self.compute_capabilities:
            return True
        return self.newer and numbers(compute_capability) > numbers(self.compute_capabilities[-1])


class Sidecar(Struct, frozen=True, forbid_unknown_fields=True):
    """`engines/<library>-<version>-<target>-<precision>/<graph>.json`: all that an engine is tied to."""

    library: Library
    version: str
    target: Target
    precision: Precision
    graph: str  # the ONNX file's name in the bundle
    graph_sha256: str
    weights_sha256: str
    inputs: dict[str, Shapes]
    refit: bool  # whether it takes other weights
    version_compatible: bool
    workspace_mib: int


def numbers(version: str) -> tuple[int, ...]:
    """`10.3.0.post1` as (10, 3, 0, 1), to compare."""
    return tuple(map(int, re.findall(r"\d+", version)))


def folder(library: str, version: str, target: Target, precision: Precision) -> str:
    """Where a bundle keeps such engines."""
    return f"{FOLDER}/{library}-{version}-{target.name}-{precision}"


def import_library(library: str) -> Any:
    """The module of TensorRT or TensorRT-RTX. Raises `BackendError` that says how to get it.

    Importing touches no driver. Before anything else of it is called, ask `cuda.missing`.
    """
    for name in MODULES[library]:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise BackendError(f"{library} is not installed: {INSTALL[library]}")


def engine_for(
    bundle: Bundle,
    name: str,
    library: str,
    precision: Precision = "fp32",
    learned: Mapping[str, np.ndarray] | None = None,
) -> Graph:
    """The graph `name` of a bundle as the engine that was built for this machine, ready to run.

    With tensors `learned` in place of the bundle's, it is one that takes other weights, and has proven itself.
    Raises `BackendError` where there is no such engine, no library or no GPU; `BundleError` for a damaged file;
    `ParityError` where it computes something else with what was learned.
    """
    of = graphs(bundle.manifest.network)[name]
    if learned and not of.answers:
        raise BackendError(f"{library}: the engine of {name} takes nothing that was learned")
    if problem := cuda.missing():
        raise BackendError(f"{library}: {problem} on this machine")
    module, gpu = import_library(library), cuda.compute_capability()
    for file in bundle.manifest.files:
        if file.startswith(f"{FOLDER}/") and file.endswith(f"/{name}.json"):
            sidecar = read_sidecar(bundle, file)
            suitable = sidecar.refit or not learned
            if suitable and fits(sidecar, bundle.manifest, library, module.__version__, gpu, precision):
                engine = bundle.verified(file.removesuffix(".json") + ".engine")
                if not learned:
                    return load_engine(engine, module, sidecar, of.means)
                graph = load_engine(engine, module, sidecar, of.means, learned, bundle.weights())
                prove(graph, bundle, name, learned)
                return graph
    kind = f"{precision} engine of {name} that takes other weights" if learned else f"{precision} engine of {name}"
    raise BackendError(
        f"{bundle.path}: holds no {kind} for {library} {module.__version__} and compute capability {gpu}; "
        f"on this machine: ffexport --model {bundle.path} --format {library}"
    )


def read_sidecar(bundle: Bundle, file: str) -> Sidecar:
    """A sidecar, after its hash has been checked."""
    try:
        return decode_json(bundle.read(file), Sidecar)
    except ValueError as error:
        raise BundleError(f"{bundle.path / file}: {error}") from error


def fits(
    sidecar: Sidecar, manifest: Manifest, library: str, version: str, compute_capability: str, precision: str
) -> bool:
    """Whether the engine is of the graph and weights that the bundle has now, and runs with that library here."""
    made_from = (sidecar.graph, in_folder(WEIGHTS, sidecar.precision))
    hashes = [manifest.files[file].sha256 for file in made_from if file in manifest.files]
    same_version = sidecar.version == version or (
        sidecar.version_compatible and numbers(sidecar.version) < numbers(version)
    )
    return (
        sidecar.library == library
        and sidecar.precision == precision
        and same_version
        and sidecar.target.runs_on(compute_capability)
        and hashes == [sidecar.graph_sha256, sidecar.weights_sha256]
    )


def load_engine(
    file: Path,
    module: Any,
    sidecar: Sidecar,
    means: Collection[str] = (),
    learned: Mapping[str, np.ndarray] | None = None,
    shipped: Mapping[str, np.ndarray] | None = None,
) -> Graph:
    """An engine file as a function on arrays, which calls the engine in chunks that it takes. `means` names the
    outputs that are means over the images: a gradient graph has some.

    With tensors `learned` in place of those `shipped`. Raises `BackendError` where the library refuses the file or
    the tensors; the function where it refuses an input.
    """
    engine = Engine(file, module, sidecar)
    if learned:
        engine.refit(module, learned, shipped or {})
    largest = {name: shapes.max[0] for name, shapes in sidecar.inputs.items()}
    if means:
        return gradient_in_chunks(engine, min(largest.values()), largest, means)
    labels = largest.pop("labels", 1)
    (batch,) = largest.values()
    return in_chunks(engine, batch, labels)


class Engine:
    """An engine on the GPU, called like a graph; from several threads, one after the other.

    Holds on to all that the library has made: its objects do not keep each other alive.
    """

    def __init__(self, file: Path, module: Any, sidecar: Sidecar) -> None:
        self._file, self._log, self._lock = file, logger(module), threading.Lock()
        self._library, self._process = sidecar.library, os.getpid()
        self._runtime = module.Runtime(self._log)
        if sidecar.version_compatible:  # such a plan brings code of its own
            self._runtime.engine_host_code_allowed = True
        self._engine = engine = self._runtime.deserialize_cuda_engine(file.read_bytes())
        if engine is None:
            raise BackendError(f"{file}: {sidecar.library} cannot load it: {self._log.said()}")
        self._context, self._gpu = engine.create_execution_context(), cuda.GpuMemory()
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._types = {name: module.nptype(engine.get_tensor_dtype(name)) for name in names}
        self._outputs = [name for name in names if engine.get_tensor_mode(name) == module.TensorIOMode.OUTPUT]

    def refit(self, module: Any, learned: Mapping[str, np.ndarray], shipped: Mapping[str, np.ndarray]) -> None:
        """Compute with tensors `learned` from now on."""
        with self._lock:
            self._gpu.use()
            refit(self._file, self._engine, module, self._log, learned, shipped)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        context, gpu = self._context, self._gpu
        if self._process != os.getpid():
            require_no_gpu(self._library)
        with self._lock:
            gpu.use()
            given = {name: np.ascontiguousarray(array, self._types[name]) for name, array in inputs.items()}
            for name, array in given.items():
                if not context.set_input_shape(name, array.shape):
                    raise BackendError(f"{self._file}: takes no {name} of shape {array.shape}: {self._log.said()}")
                context.set_tensor_address(name, gpu.upload(name, array))
            results = {
                name: np.empty(tuple(context.get_tensor_shape(name)), self._types[name]) for name in self._outputs
            }
            for name, array in results.items():
                context.set_tensor_address(name, gpu.reserve(name, array.nbytes))
            if not context.execute_async_v3(gpu.stream):
                raise BackendError(f"{self._file}: the engine failed: {self._log.said()}")
            for name, array in results.items():
                gpu.download(name, array)
            gpu.wait()
            return results


def refit(
    file: Path,
    engine: Any,
    module: Any,
    log: Any,
    learned: Mapping[str, np.ndarray],
    shipped: Mapping[str, np.ndarray],
) -> None:
    """Put learned tensors into the TensorRT `engine` of `file`, which takes other weights.

    What it has combined with them needs to be given anew, too, and is taken from the `shipped` tensors. Raises
    `BackendError` where the engine refuses a tensor, or wants one that is none of the bundle's.
    """
    refitter, held = module.Refitter(engine, log), []

    def give(name: str, tensor: np.ndarray) -> None:
        held.append(np.ascontiguousarray(tensor))  # the refitter makes no copy
        if not refitter.set_named_weights(name, module.Weights(held[-1])):
            raise BackendError(f"{file}: the engine takes no '{name}': {log.said()}")

    for name, tensor in learned.items():
        give(name, tensor)
    for name in refitter.get_missing_weights():
        if name not in shipped:
            raise BackendError(f"{file}: the engine needs '{name}' as well, which is no tensor of the bundle")
        give(name, shipped[name])
    if not refitter.refit_cuda_engine():
        raise BackendError(f"{file}: the engine takes no other weights: {log.said()}")


def prove(engine: Graph, bundle: Bundle, name: str, learned: Mapping[str, np.ndarray]) -> None:
    """Let an engine of the graph `name` compute the golden images, and ONNX Runtime's CPU provider, too.

    Raises `ParityError` where they differ by more than rounding, `BackendError` without onnxruntime.
    """
    inputs = {"images": to_unit_interval(bundle.tensors(GOLDEN)["images"])}
    if graphs(bundle.manifest.network)[name].kind == "goodness":
        inputs["labels"] = np.arange(bundle.manifest.network.label.patterns)
    try:
        expected = load_graph(bundle.verified(f"{name}.onnx"), DEFAULT_BACKEND, weights=learned)(inputs)
    except MissingExtra as error:
        raise BackendError(f"what was learned is checked in an engine before use, and {error}") from error
    for output, values in engine(inputs).items():
        off, scale = np.abs(values - expected[output]).max(), np.abs(expected[output]).max()
        if not off <= TOLERANCE * scale:  # also where it is no number
            raise ParityError(
                f"{bundle.path}: with what was learned, {output} of the engine of {name} is off by {off:.2e} "
                f"(it reaches {scale:.2e}): do not trust it, and use --backend {DEFAULT_BACKEND}"
            )


def logger(module: Any) -> Any:
    """A logger of that library that keeps errors to itself; `said()` is all of them, in one line."""

    class Log(module.ILogger):
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR):
                self.errors.append(message)

        def said(self) -> str:
            errors, self.errors = self.errors, []
            return " ".join("; ".join(errors).split())[:300] or "no reason given"

    return Log()
