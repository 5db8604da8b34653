"""What of ffexport works on this machine, and why the rest does not."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from msgspec import Struct

from ffruntime import cuda
from ffruntime.backend import provider_problem
from ffruntime.core.errors import MissingExtra
from ffruntime.engine import LIBRARIES, Library


class Offer(Struct, frozen=True):
    """A format or a provider; `problem` says what keeps it from this machine, `note` what else there is to know."""

    kind: str  # format or provider
    name: str
    problem: str | None
    note: str = ""


def availability() -> list[Offer]:
    """Every format and every provider. Touches no engine that could crash without a driver."""
    from .providers import NAMES

    return [_onnx(), *map(_engines, LIBRARIES), *map(_provider, NAMES)]


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
    from .engines import missing

    problem = "; ".join(missing(library)) or None
    note = "no GPU: engines are built, but not run here, and take no other weights later" if cuda.missing() else ""
    return Offer("format", library, problem, "" if problem else note)


def _provider(name: str) -> Offer:
    try:
        return Offer("provider", name, provider_problem(f"onnxruntime-{name}"))
    except MissingExtra as error:
        return Offer("provider", name, str(error))
