"""The command line of ffexport. What a command needs is imported when it runs: `--help` and refusals are quick."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ffruntime import command
from ffruntime.command import echo
from ffruntime.core.errors import MissingExtra, UsageError, unknown
from ffruntime.core.precision import PRECISIONS, Precision

if TYPE_CHECKING:
    from ffruntime.core.bundle import Bundle
    from ffruntime.core.manifest import Manifest
    from ffruntime.core.plan import Plan
    from ffruntime.core.state import Check

    from .artefacts import Artefact, ExportReport
    from .c.arena import Part

FORMATS = ("onnx", "tensorrt", "tensorrt-rtx", "c")
PROVIDERS = ("cpu", "cuda", "tensorrt", "tensorrt-rtx")
PARTS = ("all", "last", "readouts")  # of a network in C, what learns
BAR_WIDTH = 24  # of the line that shows progress
EPILOG = """\b
Examples:
  ffexport                              ONNX graphs into model.ff (or $FF_MODEL)
  ffexport --precision fp16 --precision int8
  ffexport --device jetson-orin-nano    does it fit? then what that device runs best
  ffexport --format tensorrt            engines, on the machine with the GPU; graphs only where they are missing
  ffexport --format c --device stm32f746    C99 for a microcontroller: as much learns as has room there
  ffexport --format c --precision int8 --learns readouts    the same, in integers but for the readouts
  ffexport --list                       formats and providers: what works here, and why the rest does not
  ffexport --check --json               all checks again, as JSON; nothing is written
  ffexport --state learned.state        what a device learned, as a new bundle: model-learned.ff

\b
Exit codes: 0 done, 1 other errors and missing packages, 2 usage, 3 bundle, 6 format or engine not to be had
here, or a device too small, 7 the golden check failed, 8 cannot write. Whatever fails, the bundle is as it was."""


class Name(click.ParamType):
    """One of a few names; a mistyped one is answered with the nearest."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name, self.known = name, tuple(known)

    def convert(self, value: str, _param: click.Parameter | None, _ctx: click.Context | None) -> str:
        if value not in self.known:
            raise unknown(self.name, value, self.known)
        return value

    def get_metavar(self, *_arguments: object, **_options: object) -> str:
        return "|".join(self.known)


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=EPILOG,
)
@click.version_option(package_name="ffedge")
@click.option("--model", metavar="DIR", help="The bundle; default: $FF_MODEL, else model.ff.")
@click.option(
    "--format",
    "formats",
    type=Name("format", FORMATS),
    multiple=True,
    help="What to make; repeat it for several. Default: what the device runs and can be made here, else onnx.",
)
@click.option(
    "--provider",
    "providers",
    type=Name("provider", PROVIDERS),
    multiple=True,
    help="Check that ONNX Runtime's provider runs every node; repeat it for several.",
)
@click.option(
    "--precision",
    "precisions",
    type=Name("precision", PRECISIONS),
    multiple=True,
    help="Beside fp32; repeat it for several. Default: the device's best, without a device none.",
)
@click.option("--device", metavar="NAME|FILE", help="Whether it fits this device, and what the device runs best.")
@click.option(
    "--learns",
    type=Name("part", PARTS),
    help="With --format c: what learns at most; default: as much as has room on the device.",
)
@click.option("--data", metavar="DIR", help="Data sets, for validation images; default: $FF_DATA, else the cache.")
@click.option("--version-compatible", is_flag=True, help="TensorRT engines that newer versions run, too; slower.")
@click.option("--hardware-compatible", is_flag=True, help="TensorRT engines for every GPU since Ampere; slower.")
@click.option("--state", metavar="FILE", help="Export the bundle with what a device learned, as a new one.")
@click.option(
    "--trusted",
    metavar="KEYS",
    help="Refuse a state that none of these public keys has signed: as of 'ffruntime apply-state'.",
)
@click.option("--out", metavar="DIR", help="The new bundle of --state; default: model-learned.ff beside model.ff.")
@click.option("--force", is_flag=True, help="With --state: replace the bundle that is at --out.")
@click.option("--list", "show_list", is_flag=True, help="Formats and providers, and what of them works here.")
@click.option("--check", "only_check", is_flag=True, help="Repeat all checks on an export; writes nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def cli(
    model: str | None,
    formats: tuple[str, ...],
    providers: tuple[str, ...],
    precisions: tuple[Precision, ...],
    device: str | None,
    learns: Part | None,
    data: str | None,
    version_compatible: bool,
    hardware_compatible: bool,
    state: str | None,
    trusted: str | None,
    out: str | None,
    force: bool,
    show_list: bool,
    only_check: bool,
    as_json: bool,
) -> None:
    """Export a trained bundle: a graph for each unit, the goodness of any labels, and the linear classifier.

    Every graph is run against the bundle's golden vectors, and decides on images, before it is added.
    """
    if show_list:
        from .deploy import availability, offer_table

        offers = availability()
        echo(as_json_text(offers) if as_json else offer_table(offers))
        return
    if only_check and formats:
        raise UsageError("--check makes nothing: leave out --format")
    if state is None and (out is not None or force or trusted is not None):
        raise UsageError("--out, --trusted and --force go with --state: without it, an export adds to the bundle")
    if state is not None and only_check:
        raise UsageError("--check makes nothing: leave out --state")
    if data is not None and not Path(data).is_dir():
        raise UsageError(f"--data {data}: is no directory; name one that holds MNIST/raw, or leave it out")
    from ffruntime.core.bundle import Bundle

    bundle = Bundle(model or os.environ.get("FF_MODEL") or "model.ff")
    if "c" in formats:
        if len(formats) > 1 or state is not None or providers or len(precisions) > 1:
            raise UsageError("--format c goes by itself, with one --precision: a state is a bundle first (--state)")
        export_to_c(bundle.path, precisions[0] if precisions else "fp32", device, learns or "all", as_json)
        return
    if learns is not None:
        raise UsageError("--learns goes with --format c: elsewhere all that was trained learns")
    target = new_bundle(bundle, out, force) if state is not None else bundle.path
    check = None
    if state is not None:
        from ffruntime.signing import required

        check = required(Path(trusted) if trusted else None)
    plan = fit(bundle.manifest, device, precisions, state, check) if device else None
    if plan and not as_json:
        from ffruntime.core.tables import plan_text

        echo(plan_text(plan))
    if plan and not precisions:
        precisions = (plan.precision,)
    from .artefacts import artefact_table
    from .deploy import deploy, formats_of, has_graphs
    from .engines import EngineOptions

    wanted = formats or (("onnx",) if device is None or only_check else formats_of(device))
    report = None
    if state is not None or "onnx" in wanted or not has_graphs(bundle.manifest, precisions):
        report = run(bundle, precisions, data, plan, only_check, state, target, check)
        bundle = Bundle(target)  # as it is now
        if not as_json:
            echo(artefact_table(report.artefacts))
    options = EngineOptions(version_compatible, hardware_compatible)
    more = deploy(bundle, wanted, providers, precisions, device, plan, options, asked=bool(formats))
    if as_json:
        echo(as_json_text({"model": str(target), **report_object(report, more)}))
    elif more:
        echo(artefact_table(more))
    if report and only_check:
        from ffruntime.golden import require

        require(list(report.checks), report.backend)
    if report and not as_json:
        from ffruntime.core.tables import exit_text, shortlist_text

        whose, manifest = "the trainer's" if state is None else "its own", bundle.manifest
        if manifest.shortlist:
            classes, weight = len(manifest.classes), manifest.logit_weight
            echo(f"mode shortlist: {shortlist_text(manifest.shortlist, classes, weight)}")
        if manifest.exit:
            echo(f"mode exit: {exit_text(manifest.exit)}")
        echo(f"{target}: every graph reproduces {whose} golden vectors; next: ffruntime classify image.png")


def export_to_c(path: Path, precision: Precision, device: str | None, most: Part, as_json: bool) -> None:
    """A C project into the bundle, and what it takes on a microcontroller."""
    from ffruntime.core.devices import load_microcontroller

    from .artefacts import artefact_table
    from .c.footprint import footprint_text
    from .c.project import FOLDER, export_c

    chip = load_microcontroller(device) if device else None
    row, footprint = export_c(path, precision, chip, Path(device).stem if device else None, most)
    if as_json:
        echo(as_json_text({"model": str(path), "artefacts": [row], "footprint": footprint}))
        return
    echo(f"{footprint_text(footprint)}\n{artefact_table([row])}")
    echo(f"{path / FOLDER}: C99, for your project; next: docs/microcontrollers.md")


def report_object(report: ExportReport | None, more: list[Artefact]) -> dict[str, Any]:
    """A report for programs, with the rows of engines and providers; without an export those alone."""
    from msgspec import to_builtins

    whole = to_builtins(report) if report else {"artefacts": []}
    return {**whole, "artefacts": [*whole["artefacts"], *to_builtins(more)]}


def as_json_text(value: Any) -> str:
    """Structs, dictionaries and lists as one line of JSON."""
    from msgspec import to_builtins

    return json.dumps(to_builtins(value))


@contextmanager
def export_extra() -> Iterator[None]:
    """Says which extra is missing where what is imported in the block needs it."""
    try:
        yield
    except ImportError as error:
        if error.name in ("onnx", "spox"):
            raise MissingExtra(error.name, "export") from error
        raise


def new_bundle(bundle: Bundle, out: str | None, force: bool) -> Path:
    """Where the bundle of `--state` goes. Raises `UsageError` where something is there already."""
    with export_extra():
        from .from_state import target_of

    return target_of(bundle.path, Path(out) if out is not None else None, force)


def fit(
    manifest: Manifest,
    device: str,
    precisions: tuple[Precision, ...],
    state: str | None = None,
    check: Check | None = None,
) -> Plan:
    """The plan for a device, before any work. Raises `BackendError` with the numbers where nothing fits."""
    from ffruntime.core.devices import load_profile
    from ffruntime.core.plan import device_limits, plan, require_fit
    from ffruntime.core.state import read_state

    profile = load_profile(device)
    classes = len(manifest.classes if state is None else read_state(Path(state), manifest, check)[0].classes)

    def planned(precision: Precision) -> Plan:
        return plan(manifest, classes, precision, device_limits(profile), Path(device).stem)

    offered = profile.inference.precision
    wanted = planned(precisions[-1] if precisions else offered[0])
    require_fit(wanted, [planned(precision) for precision in offered])
    return wanted


def run(
    bundle: Bundle,
    precisions: tuple[Precision, ...],
    data: str | None,
    plan: Plan | None,
    only_check: bool,
    state: str | None,
    target: Path,
    check: Check | None,
) -> ExportReport:
    """Export, or only check, or make the bundle `target` of a state, with a bar where someone watches."""
    with export_extra():
        from .export import check_export, export_onnx
        from .from_state import export_state, left_out
    from ffruntime.core.data import data_directory

    progress, directory = bar(), data_directory(data)
    try:
        if only_check:
            return check_export(bundle, data=directory, progress=progress)
        if state is not None:
            if names := left_out(bundle, Path(state), check):
                echo(
                    f"warning: left out, as nothing was learned of it: {', '.join(names)}; 'ffruntime learn "
                    "--rehearse 150' before 'ffruntime export-state' gives it a row",
                    err=True,
                )
            return export_state(bundle, Path(state), target, precisions, directory, plan, progress, check)
        return export_onnx(bundle.path, precisions, data=directory, device=plan, progress=progress)
    finally:
        progress("", 0)


def bar() -> Callable[[str, float], None]:
    """One line on stderr that says what is being done and how far it is, for a terminal; elsewhere nothing.

    The function that is returned takes both; an empty text wipes the line.
    """
    if not sys.stderr.isatty():
        return lambda _what, _share: None

    def draw(what: str, share: float) -> None:
        full = round(BAR_WIDTH * share)
        line = f"{'█' * full}{'░' * (BAR_WIDTH - full)}  {what}" if what else ""
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()

    return draw


def main() -> None:
    """Entry point of `ffexport`."""
    command.run(cli)
