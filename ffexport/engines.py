"""TensorRT and TensorRT-RTX engines of a bundle's graphs, built by one program: the two have one Python API.

The graphs in the bundle are read as they are, so a Jetson needs neither torch nor onnx for this. TensorRT builds on
the GPU that will run the engine. TensorRT-RTX needs no GPU, but only with one can it build engines that take other
weights later (refit): without, 1.4 to 1.7.1 refuse even a single product, and with several targets they do, too.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from ffruntime import cuda
from ffruntime.core import transition as bundle
from ffruntime.core.devices import Profile
from ffruntime.core.errors import BackendError, UsageError
from ffruntime.core.manifest import Precision, in_folder
from ffruntime.engine import Library, Shapes, Sidecar, Target, folder, import_library, logger
from ffruntime.golden import Check, check, require
from ffruntime.model import Model
from ffruntime.session import Session

from .engine_options import (
    AMPERE_PLUS,
    PLAIN,
    Limits,
    Options,
    limits,
    offered_capabilities,
    profile_shapes,
    rtx_target,
)
from .report import REPORT, encode_report, read_report, with_rows
from .scratch import scratch_copy
from .table import Artefact

Built: TypeAlias = tuple[bytes, dict[str, Shapes]]  # an engine, and what shapes each input may have


class Plan(Struct, frozen=True):
    """What every engine of one call has in common."""

    library: Library
    version: str
    target: Target
    precision: Precision
    limit: Limits
    refit: bool
    options: Options


def build_engines(
    path: Path,
    library: Library,
    device: Profile | None = None,
    precision: Precision = "fp32",
    limit: Limits | None = None,
    options: Options = PLAIN,
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
    plan = Plan(library, module.__version__, target, precision, limit or limits(device), refit, options)
    manifest = bundle.read_manifest(path)
    bundle.verified(path, manifest, in_folder(bundle.WEIGHTS, precision))
    graphs = {name: bundle.verified(path, manifest, name) for name in graph_files(manifest, precision)}
    files = {}
    for name, (engine, inputs) in zip(graphs, _build_apart(list(graphs.values()), plan), strict=True):
        sidecar = Sidecar(
            library=library,
            version=plan.version,
            target=plan.target,
            precision=precision,
            graph=name,
            graph_sha256=manifest.files[name].sha256,
            weights_sha256=manifest.files[in_folder(bundle.WEIGHTS, precision)].sha256,
            inputs=inputs,
            refit=plan.refit,
            version_compatible=options.version_compatible,
            workspace_mib=plan.limit.workspace_mib,
        )
        place = f"{folder(library, plan.version, plan.target, precision)}/{Path(name).stem}"
        files[f"{place}.engine"] = engine
        files[f"{place}.json"] = msgspec.json.format(msgspec.json.encode(sidecar), indent=2) + b"\n"
    checks = _prove(path, manifest, files, plan)
    rows = [_row(name, data, plan, checks) for name, data in files.items() if name.endswith(".engine")]
    if report := read_report(path, manifest):
        files[REPORT] = encode_report(with_rows(report, rows))
    bundle.write(path, manifest, files)
    return rows


def graph_files(manifest: bundle.Manifest, precision: Precision) -> list[str]:
    """The bundle's ONNX graphs of a precision. Raises `BackendError` where it has none."""
    found = [n for n in manifest.files if n.endswith(".onnx") and in_folder(Path(n).name, precision) == n]
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


def _target(module: Any, library: Library, device: Profile | None, here: str | None, options: Options) -> Target:
    if library == "tensorrt-rtx":
        offered = offered_capabilities(list(module.ComputeCapability.__members__))
        return rtx_target(device.gpu if device else None, here, offered)
    assert here is not None  # or `missing` would have said so
    return tensorrt_target(here, device, options)


def tensorrt_target(here: str, device: Profile | None, options: Options) -> Target:
    """The GPUs that a TensorRT engine built on a GPU of compute capability `here` is for. Raises `BackendError`."""
    if device and device.gpu and device.gpu.compute_capability != here and not options.hardware_compatible:
        raise BackendError(
            f"tensorrt: an engine for {device.title} (compute capability {device.gpu.compute_capability}) is built "
            f"on it; this GPU has {here}"
        )
    return AMPERE_PLUS if options.hardware_compatible else Target((here,))


def _build_apart(files: list[Path], plan: Plan) -> list[Built]:
    """Build in a process of its own: TensorRT-RTX 1.7.1 builds nothing more in one in which it has refused a graph,
    either library may crash, and both write to stderr what their logger does not get."""
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(_build_all, files, plan).result()
    except BrokenProcessPool as error:
        names = ", ".join(file.name for file in files)
        raise BackendError(f"{plan.library} {plan.version} crashed while it built {names}") from error


def _build_all(files: list[Path], plan: Plan) -> list[Built]:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    module = import_library(plan.library)
    return [build(module, file, plan) for file in files]


def build(module: Any, file: Path, plan: Plan) -> Built:
    """One graph as an engine, and the shapes that it takes. Raises `BackendError` with the library's own words."""
    log = logger(module)
    builder = module.Builder(log)
    network = builder.create_network(1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = module.OnnxParser(network, log)
    if not parser.parse_from_file(str(file)):  # from the file: that is how it finds the weights beside it
        error = parser.get_error(0)
        node = f"{error.node_operator()} {error.node_name()}"
        raise BackendError(f"{file}: {plan.library} refuses {node}: {error.desc()}")
    config, shapes = builder.create_builder_config(), {}
    profile = builder.create_optimization_profile()
    for tensor in map(network.get_input, range(network.num_inputs)):
        size = tuple(tensor.shape)
        names = [tensor.get_dimension_name(axis) for axis in range(len(size))]
        shapes[tensor.name] = profile_shapes(file.stem, size, names, plan.limit)
        profile.set_shape(tensor.name, *msgspec.structs.astuple(shapes[tensor.name]))
    config.add_optimization_profile(profile)
    config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, plan.limit.workspace_mib << 20)
    config.clear_flag(module.BuilderFlag.TF32)  # on by default; it would cost fp32 parity
    if plan.refit:
        config.set_flag(module.BuilderFlag.REFIT)
    if plan.library == "tensorrt-rtx":
        _set_rtx_targets(module, config, plan.target)
    else:
        _set_compatibility(module, config, plan.options)
    cache = None if plan.library == "tensorrt-rtx" else _use_timing_cache(config, timing_cache_file(plan))
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        what = f"{plan.library} {plan.version} cannot build it for {plan.target.name}"
        raise BackendError(f"{file}: {what}: {log.said()}")
    if cache is not None:
        bundle.write_atomically(timing_cache_file(plan), bytes(cache.serialize()))
    return bytes(engine), shapes


def _set_rtx_targets(module: Any, config: Any, target: Target) -> None:
    if target.newer:  # the library's default
        return
    config.num_compute_capabilities = len(target.compute_capabilities)
    for index, capability in enumerate(target.compute_capabilities):
        member = getattr(module.ComputeCapability, f"SM{capability.replace('.', '')}")
        config.set_compute_capability(member, index)


def _set_compatibility(module: Any, config: Any, options: Options) -> None:
    if options.version_compatible:
        config.set_flag(module.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = module.HardwareCompatibilityLevel.AMPERE_PLUS


def timing_cache_file(plan: Plan) -> Path:
    """Where measured kernel times are kept between builds: they hold for one TensorRT and one kind of GPU."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "ffedge" / f"{plan.library}-{plan.version}-{plan.target.name}.timing"


def _use_timing_cache(config: Any, file: Path) -> Any:
    cache = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
    config.set_timing_cache(cache, False)
    return cache


def _prove(path: Path, manifest: bundle.Manifest, files: dict[str, bytes], plan: Plan) -> dict[str, Check]:
    """The golden check with the engines themselves, in a scratch copy: the worst row of each graph.

    Empty where no GPU here runs them. TensorRT 11.3 can drop a bias of an engine that takes other weights, silently
    (its release notes): this is what finds out.
    """
    if cuda.missing() or not plan.target.runs_on(cuda.compute_capability()):
        return {}
    graphs = graph_files(manifest, plan.precision)
    kept = [bundle.WEIGHTS, bundle.GOLDEN, in_folder(bundle.WEIGHTS, plan.precision), *graphs]
    with scratch_copy(path, manifest, kept) as copy:
        bundle.write(copy, bundle.read_manifest(copy), files)
        rows = check(Model(copy, session=Session(plan.library, plan.precision)))
    require(rows, f"{plan.library} {plan.version}")
    return {row.graph: row for row in sorted(rows, key=lambda row: row.relative)}


def _row(name: str, engine: bytes, plan: Plan, checks: dict[str, Check]) -> Artefact:
    worst = checks.get(Path(name).stem)
    verdict = (
        "ok" if worst else "built, no golden values to check" if checks else "built, not run: no GPU for it here"
    )
    if not plan.refit:
        verdict += "; takes no other weights"
    return Artefact(name, len(engine), plan.precision, worst.relative if worst else None, verdict)
