"""What follows the graphs: engines made from them, providers that have to run them, and what of both works here."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from msgspec import Struct

from ffruntime import cuda
from ffruntime.backend import provider_problem
from ffruntime.core.bundle import Bundle
from ffruntime.core.devices import load_profile
from ffruntime.core.errors import BackendError, MissingExtra
from ffruntime.core.manifest import Manifest
from ffruntime.core.plan import Plan
from ffruntime.core.precision import Precision
from ffruntime.engine import LIBRARIES, Library

from .artefacts import Artefact, exported_precisions
from .engines import PLAIN, EngineOptions, build_engines, engine_limits, missing
from .providers import NAMES, check_providers


def has_graphs(manifest: Manifest, precisions: Sequence[Precision]) -> bool:
    """Whether a bundle has the graphs of fp32 and of every one of `precisions`: all that engines need."""
    made = exported_precisions(manifest)
    return all(precision in made for precision in ("fp32", *precisions))


def formats_of(device: str) -> tuple[str, ...]:
    """Graphs and engines that a device runs, best first: an engine library's, and `onnx`."""
    providers = load_profile(device).inference.providers
    return (*(name for name in providers if not name.startswith("onnxruntime")), "onnx")


def engine_calls(plan: Plan) -> tuple[int, int]:
    """Images and labels in the largest call that an engine has to take: in the last mode, which needs most."""
    *_, calls = (found.calls for found in plan.needs if found.use != "update")
    return calls.batch, calls.labels


def deploy(
    bundle: Bundle,
    formats: Sequence[str],
    providers: Sequence[str],
    precisions: Sequence[Precision],
    device: str | None = None,
    plan: Plan | None = None,
    options: EngineOptions = PLAIN,
    asked: bool = True,
) -> list[Artefact]:
    """Check the graphs in fp32 and in `precisions` on each provider, then make engines of every format of them.

    `device`: a profile by name or path, `plan` the calls that fit it. Raises what `check_providers` and
    `build_engines` raise; the graphs stay whatever becomes of the engines. Where the formats were not `asked` for,
    but are what the device runs, engines that cannot be made here are rows that say why, and where they can.
    """
    profile = load_profile(device) if device else None
    limit = engine_limits(profile, *engine_calls(plan)) if plan else None
    rows = []
    for precision in dict.fromkeys(("fp32", *precisions)):
        rows += check_providers(bundle, providers, precision)
    for library in LIBRARIES:
        if library in formats:
            for precision in dict.fromkeys(("fp32", *precisions)):
                try:
                    rows += build_engines(bundle.path, library, profile, precision, limit, options)
                except BackendError as error:
                    if asked:
                        raise
                    rows.append(Artefact(f"engines: {library}", 0, precision, None, f"not made here: {error}"))
    return rows


# ---------------------------------------- what works here ----------------------------------------


class Offer(Struct, frozen=True):
    """A format or a provider; `problem` says what keeps it from this machine, `note` what else there is to know."""

    kind: str  # format or provider
    name: str
    problem: str | None
    note: str = ""


def availability() -> list[Offer]:
    """Every format and every provider. Touches no engine that could crash without a driver."""
    return [_onnx(), *map(_engines, LIBRARIES), Offer("format", "c", None), *map(_provider, NAMES)]


def offer_table(offers: Sequence[Offer]) -> str:
    """The rows for people. Reasons come last: they are longer than any column."""
    lines = []
    for offer in offers:
        works = "no " if offer.problem else "yes"
        lines.append(f"{offer.kind:8}  {offer.name:12}  {works}  {offer.problem or offer.note}".rstrip())
    return "\n".join(lines)


def _onnx() -> Offer:
    absent = next((module for module in ("onnx", "spox", "onnxruntime") if find_spec(module) is None), None)
    extra = "cpu" if absent == "onnxruntime" else "export"
    return Offer("format", "onnx", absent and f"{absent} is not installed: pip install 'ffedge[{extra}]'")


def _engines(library: Library) -> Offer:
    problem = "; ".join(missing(library)) or None
    note = "no GPU: engines are built, but not run here, and take no other weights later" if cuda.missing() else ""
    return Offer("format", library, problem, "" if problem else note)


def _provider(name: str) -> Offer:
    try:
        return Offer("provider", name, provider_problem(f"onnxruntime-{name}"))
    except MissingExtra as error:
        return Offer("provider", name, str(error))
