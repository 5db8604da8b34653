"""TensorRT and TensorRT-RTX engines of a bundle's graphs, built by one program: the two have one Python API.

The graphs in the bundle are read as they are, so a Jetson needs neither torch nor onnx for this. TensorRT builds on
the GPU that will run the engine. TensorRT-RTX needs no GPU, but only with one can it build engines that take other
weights later (refit): without, 1.4 to 1.7.1 refuse even a single product, and with several targets they do, too.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from ffruntime import cuda
from ffruntime.core.architecture import Network, class_goodness
from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.data import cache_directory
from ffruntime.core.devices import Gpu, Profile
from ffruntime.core.durable import write_atomically
from ffruntime.core.errors import BackendError, UsageError
from ffruntime.core.graphs import GraphFile
from ffruntime.core.manifest import GOLDEN, WEIGHTS, Manifest
from ffruntime.core.precision import Precision, in_folder
from ffruntime.engine import Library, Shapes, Sidecar, Target, folder, import_library, logger, numbers
from ffruntime.golden import Check, check, require
from ffruntime.lock import writing
from ffruntime.model import Model
from ffruntime.session import Session

from .artefacts import REPORT, Artefact, bundle_graphs, encode_report, read_report, with_rows
from .prove import scratch_copy

Built: TypeAlias = tuple[bytes, dict[str, Shapes]]  # an engine, and what shapes each input may have
Ranges: TypeAlias = Mapping[str, tuple[int, int, int]]  # dynamic dimension -> smallest, likeliest and largest size
# What engines run on that TensorRT-RTX builds when nothing is asked for (its documentation, "CPU-Only AOT and
# TensorRT-RTX Engines": these and later ones).
PORTABLE = Target(("8.0", "8.6", "8.9", "12.0"), newer=True)
AMPERE_PLUS = Target(("8.0",), newer=True)  # TensorRT's HardwareCompatibilityLevel of that name


class EngineLimits(Struct, frozen=True):
    """The largest call of a graph: images (in training, pairs), labels for each, MiB of scratch memory."""

    batch: int = 16
    labels: int = 16
    workspace_mib: int = 512


class EngineOptions(Struct, frozen=True):
    """What a user may ask of an engine, at some cost in speed: that newer libraries, or other GPUs, run it, too."""

    version_compatible: bool = False
    hardware_compatible: bool = False


PLAIN = EngineOptions()


class BuildSettings(Struct, frozen=True):
    """What every engine of one call has in common."""

    library: Library
    version: str
    target: Target
    precision: Precision
    limit: EngineLimits
    refit: bool
    options: EngineOptions


def build_engines(
    path: Path,
    library: Library,
    device: Profile | None = None,
    precision: Precision = "fp32",
    limit: EngineLimits | None = None,
    options: EngineOptions = PLAIN,
) -> list[Artefact]:
    """Build an engine of every graph of that precision, prove them where a GPU is, and add them to the bundle.

    `device` says which GPU, and the largest calls unless `limit` does. Raises `BackendError` that says what is
    missing and what to run where, or what the library refuses; `ParityError` where an engine does not reproduce the
    golden vectors; `UsageError` where TensorRT's options are asked of TensorRT-RTX. The bundle is then as it was.
    """
    if device and device.gpu is None:
        raise BackendError(f"{library}: {device.title} has no NVIDIA GPU")
    if problems := missing(library):
        raise BackendError(f"{'; '.join(problems)}; {_remedy(path, library, device)}")
    if library == "tensorrt-rtx" and options != PLAIN:
        raise UsageError(
            "tensorrt-rtx: its engines are of one release, and without a GPU or a device serve every GPU since 8.0"
        )
    module, here = import_library(library), None if cuda.missing() else cuda.compute_capability()
    target = _target(module, library, device, here, options)
    refit = here is not None and (library == "tensorrt" or not target.newer)
    settings = BuildSettings(
        library, module.__version__, target, precision, limit or engine_limits(device), refit, options
    )
    with writing(path):
        return _build_engines(Bundle(path), settings)


def _build_engines(bundle: Bundle, settings: BuildSettings) -> list[Artefact]:
    precision, weights = settings.precision, in_folder(WEIGHTS, settings.precision)
    bundle.verified(weights)
    network, graphs = bundle.manifest.network, graph_files(bundle.manifest, precision)
    asked = [
        (bundle.verified(name), dynamic_sizes(network, graph, settings.limit)) for name, graph in graphs.items()
    ]
    files, engines = {}, {}
    for name, (engine, inputs) in zip(graphs, _build_apart(asked, settings), strict=True):
        sidecar = Sidecar(
            library=settings.library,
            version=settings.version,
            target=settings.target,
            precision=precision,
            graph=name,
            graph_sha256=bundle.manifest.files[name].sha256,
            weights_sha256=bundle.manifest.files[weights].sha256,
            inputs=inputs,
            refit=settings.refit,
            version_compatible=settings.options.version_compatible,
            workspace_mib=settings.limit.workspace_mib,
        )
        place = f"{folder(settings.library, settings.version, settings.target, precision)}/{graphs[name].name}"
        files[f"{place}.engine"], engines[f"{place}.engine"] = engine, graphs[name].name
        files[f"{place}.json"] = msgspec.json.format(msgspec.json.encode(sidecar), indent=2) + b"\n"
    checks = _prove(bundle, files, settings)
    rows = [
        _row(place, len(files[place]), settings, checks.get(name), bool(checks)) for place, name in engines.items()
    ]
    if report := read_report(bundle):
        files[REPORT] = encode_report(with_rows(report, rows))
    write_bundle(bundle.path, bundle.manifest, files)
    return rows


def graph_files(manifest: Manifest, precision: Precision) -> dict[str, GraphFile]:
    """The bundle's ONNX graphs of a precision, by their files. Raises `BackendError` where it has none."""
    found = bundle_graphs(manifest, precision)
    if not found:
        raise BackendError(f"the bundle has no {precision} graphs: 'ffexport --precision {precision}' makes them")
    return found


def missing(library: Library) -> list[str]:
    """What keeps this machine from building engines with that library; nothing where it can."""
    problems = []
    try:
        import_library(library)
    except BackendError as error:
        problems.append(str(error))
    if library == "tensorrt" and (no_gpu := cuda.missing()):
        problems.append(f"{no_gpu} on this machine, and TensorRT builds an engine on the GPU that runs it")
    return problems


def _remedy(path: Path, library: Library, device: Profile | None) -> str:
    if library == "tensorrt-rtx":  # builds anywhere
        return f"then: ffexport --model {path} --format {library}"
    there = device.title if device else "the machine with the GPU"
    return f"copy {path} to {there} and run there: ffexport --model {path.name} --format {library}"


def _build_apart(asked: list[tuple[Path, Ranges]], settings: BuildSettings) -> list[Built]:
    """Build in a process of its own: TensorRT-RTX 1.7.1 builds nothing more in one in which it has refused a graph,
    either library may crash, and both write to stderr what their logger does not get."""
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                return pool.submit(_build_all, asked, settings).result()
            except (KeyboardInterrupt, SystemExit):  # a build would be waited for, and writes nothing that counts
                for process in multiprocessing.active_children():
                    process.terminate()
                raise
    except BrokenProcessPool as error:
        names = ", ".join(file.name for file, _ in asked)
        raise BackendError(f"{settings.library} {settings.version} crashed while it built {names}") from error


def _build_all(asked: list[tuple[Path, Ranges]], settings: BuildSettings) -> list[Built]:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    module = import_library(settings.library)
    return [build(module, file, ranges, settings) for file, ranges in asked]


def build(module: Any, file: Path, ranges: Ranges, settings: BuildSettings) -> Built:
    """One graph as an engine, and the shapes that it takes. Raises `BackendError` with the library's own words."""
    log = logger(module)
    builder = module.Builder(log)
    network = builder.create_network(1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = module.OnnxParser(network, log)
    if not parser.parse_from_file(str(file)):  # from the file: that is how it finds the weights beside it
        error = parser.get_error(0)
        node = f"{error.node_operator()} {error.node_name()}"
        raise BackendError(f"{file}: {settings.library} refuses {node}: {error.desc()}")
    config, shapes = builder.create_builder_config(), {}
    profile = builder.create_optimization_profile()
    for tensor in map(network.get_input, range(network.num_inputs)):
        size = tuple(tensor.shape)
        names = [tensor.get_dimension_name(axis) for axis in range(len(size))]
        shapes[tensor.name] = profile_shapes(size, names, ranges)
        profile.set_shape(tensor.name, *msgspec.structs.astuple(shapes[tensor.name]))
    config.add_optimization_profile(profile)
    config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, settings.limit.workspace_mib << 20)
    config.clear_flag(module.BuilderFlag.TF32)  # on by default; it would cost fp32 parity
    if settings.refit:
        config.set_flag(module.BuilderFlag.REFIT)
    if settings.library == "tensorrt-rtx":
        _set_rtx_targets(module, config, settings.target)
    else:
        _set_compatibility(module, config, settings.options)
    cache = None if settings.library == "tensorrt-rtx" else _use_timing_cache(config, timing_cache_file(settings))
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        what = f"{settings.library} {settings.version} cannot build it for {settings.target.name}"
        raise BackendError(f"{file}: {what}: {log.said()}")
    if cache is not None:
        write_atomically(timing_cache_file(settings), bytes(cache.serialize()))
    return bytes(engine), shapes


def _set_rtx_targets(module: Any, config: Any, target: Target) -> None:
    if target.newer:  # the library's default
        return
    config.num_compute_capabilities = len(target.compute_capabilities)
    for index, capability in enumerate(target.compute_capabilities):
        member = getattr(module.ComputeCapability, f"SM{capability.replace('.', '')}")
        config.set_compute_capability(member, index)


def _set_compatibility(module: Any, config: Any, options: EngineOptions) -> None:
    if options.version_compatible:
        config.set_flag(module.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = module.HardwareCompatibilityLevel.AMPERE_PLUS


def timing_cache_file(settings: BuildSettings) -> Path:
    """Where measured kernel times are kept between builds: they hold for one TensorRT and one kind of GPU."""
    return cache_directory() / f"{settings.library}-{settings.version}-{settings.target.name}.timing"


def _use_timing_cache(config: Any, file: Path) -> Any:
    cache = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
    config.set_timing_cache(cache, False)
    return cache


def _prove(bundle: Bundle, files: dict[str, bytes], settings: BuildSettings) -> dict[str, Check]:
    """The golden check with the engines themselves, in a scratch copy: the worst row of each graph.

    Empty where no GPU here runs them. TensorRT 11.3 can drop a bias of an engine that takes other weights, silently
    (its release notes): this is what finds out.
    """
    if cuda.missing() or not settings.target.runs_on(cuda.compute_capability()):
        return {}
    graphs = graph_files(bundle.manifest, settings.precision)
    with scratch_copy(bundle, [WEIGHTS, GOLDEN, in_folder(WEIGHTS, settings.precision), *graphs]) as copy:
        written = write_bundle(copy.path, copy.manifest, files)
        rows = check(Model(written, session=Session(settings.library, settings.precision)))
    require(rows, f"{settings.library} {settings.version}")
    return {row.graph: row for row in sorted(rows, key=lambda row: row.relative)}


def _row(name: str, size: int, settings: BuildSettings, worst: Check | None, ran: bool) -> Artefact:
    """The row of an engine: `worst` of what was checked of it, if anything was, and whether engines `ran` here."""
    verdict = "ok" if worst else "built, no golden values to check" if ran else "built, not run: no GPU for it here"
    if not settings.refit:
        verdict += "; takes no other weights"
    return Artefact(name, size, settings.precision, worst.relative if worst else None, verdict)


# ---------------------------------------- shapes and targets ----------------------------------------


def engine_limits(device: Profile | None, batch: int | None = None, labels: int | None = None) -> EngineLimits:
    """A device's limits, or the smaller `batch` and `labels` a network fits with; by default `EngineLimits()`."""
    if device is None or device.gpu is None:
        return EngineLimits()
    inference = device.inference
    return EngineLimits(batch or inference.max_batch, labels or inference.max_labels, device.gpu.workspace_mib)


def _target(
    module: Any, library: Library, device: Profile | None, here: str | None, options: EngineOptions
) -> Target:
    if library == "tensorrt-rtx":
        offered = offered_capabilities(list(module.ComputeCapability.__members__))
        return rtx_target(device.gpu if device else None, here, offered)
    assert here is not None  # or `missing` would have said so
    return tensorrt_target(here, device, options)


def tensorrt_target(here: str, device: Profile | None, options: EngineOptions) -> Target:
    """The GPUs that a TensorRT engine built on a GPU of compute capability `here` is for. Raises `BackendError`."""
    if device and device.gpu and device.gpu.compute_capability != here and not options.hardware_compatible:
        raise BackendError(
            f"tensorrt: an engine for {device.title} (compute capability {device.gpu.compute_capability}) is built "
            f"on it; this GPU has {here}"
        )
    return AMPERE_PLUS if options.hardware_compatible else Target((here,))


def rtx_target(device: Gpu | None, here: str | None, offered: Sequence[str]) -> Target:
    """The GPUs that a TensorRT-RTX engine is for: the device's, else this machine's, else all that one can serve.

    `here`: compute capability of this machine's GPU; `offered`: those that this TensorRT-RTX targets. Raises
    `BackendError` where the device's is none of them.
    """
    if device is None:
        return Target((here,)) if here is not None and here in offered else PORTABLE
    asked = device.compute_capability
    if asked not in offered:
        raise BackendError(
            f"tensorrt-rtx: targets compute capabilities {', '.join(offered)}, not {device.name} ({asked}); "
            "--format tensorrt, on the device, makes engines for it"
        )
    return Target((asked,))


def offered_capabilities(members: Sequence[str]) -> list[str]:
    """Compute capabilities among the names of TensorRT-RTX's enumeration: `SM89` is 8.9, `SM120` is 12.0."""
    found = [f"{name[2:-1]}.{name[-1]}" for name in members if name.startswith("SM")]
    return sorted(found, key=numbers)


def dynamic_sizes(network: Network, graph: GraphFile, limit: EngineLimits) -> Ranges:
    """What sizes the dynamic dimensions of a graph's inputs may have.

    On a device images come one by one, each with every label: with class goodness one pass answers for all rows. In
    a gradient graph N images are as many as fit, with M·N negatives.
    """
    pairs = limit.batch * limit.labels
    if graph.kind in ("gradient", "head_gradient"):
        return {"N": (1, limit.batch, limit.batch), "MN": (1, limit.batch, pairs)}
    if class_goodness(network):
        return {"N": (1, 1, limit.batch), "L": (1, network.label.patterns, network.label.patterns)}
    if graph.kind == "unit":  # a row is an image with one of its labels
        return {"N": (1, limit.labels, pairs)}
    return {"N": (1, 1, limit.batch), "L": (1, limit.labels, limit.labels)}


def profile_shapes(shape: Sequence[int], names: Sequence[str | None], ranges: Ranges) -> Shapes:
    """Smallest, likeliest and largest shape of an input.

    `shape` has −1 where a dimension is dynamic, and `names` its name there, else None.
    """
    plain = [(name or "").replace("·", "") for name in names]  # TensorRT-RTX's parser gives M·N back as MN
    columns = [ranges[name] if size < 0 else (size, size, size) for size, name in zip(shape, plain, strict=True)]
    low, likely, high = (tuple(column[i] for column in columns) for i in range(3))
    return Shapes(low, likely, high)
