"""What follows the graphs: engines made from them, and providers that have to run them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ffruntime.core.devices import load_profile
from ffruntime.core.errors import BackendError
from ffruntime.core.manifest import Precision, in_folder
from ffruntime.core.transition import read_manifest
from ffruntime.engine import LIBRARIES

from .engine_options import PLAIN, Options, limits
from .table import Artefact

if TYPE_CHECKING:
    from ffruntime.core.plan import Plan


def has_graphs(path: Path, precisions: Sequence[Precision]) -> bool:
    """Whether the bundle has the graphs of fp32 and of every one of `precisions`: all that engines need."""
    files = read_manifest(path).files
    return all(in_folder("goodness.onnx", precision) in files for precision in ("fp32", *precisions))


def formats_of(device: str) -> tuple[str, ...]:
    """Graphs and engines that a device runs, best first: an engine library's, and `onnx`."""
    providers = load_profile(device).inference.providers
    return (*(name for name in providers if not name.startswith("onnxruntime")), "onnx")


def engine_calls(plan: Plan) -> tuple[int, int]:
    """Images and labels in the largest call that an engine has to take: in the last mode, which needs most."""
    *_, calls = (found.calls for found in plan.needs if found.use != "update")
    return calls.batch, calls.labels


def deploy(
    path: Path,
    formats: Sequence[str],
    providers: Sequence[str],
    precisions: Sequence[Precision],
    device: str | None = None,
    plan: Plan | None = None,
    options: Options = PLAIN,
    asked: bool = True,
) -> list[Artefact]:
    """Check the graphs in fp32 and in `precisions` on each provider, then make engines of every format of them.

    `device`: a profile by name or path, `plan` the calls that fit it. Raises what `check_providers` and
    `build_engines` raise; the graphs stay whatever becomes of the engines. Where the formats were not `asked` for,
    but are what the device runs, engines that cannot be made here are rows that say why, and where they can.
    """
    from .engines import build_engines
    from .providers import check_providers

    profile = load_profile(device) if device else None
    limit = limits(profile, *engine_calls(plan)) if plan else None
    rows = []
    for precision in dict.fromkeys(("fp32", *precisions)):
        rows += check_providers(path, providers, precision)
    for library in LIBRARIES:
        if library in formats:
            for precision in dict.fromkeys(("fp32", *precisions)):
                try:
                    rows += build_engines(path, library, profile, precision, limit, options)
                except BackendError as error:
                    if asked:
                        raise
                    rows.append(Artefact(f"engines: {library}", 0, precision, None, f"not made here: {error}"))
    return rows
