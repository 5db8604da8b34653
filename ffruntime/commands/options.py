"""Options that several commands of ffruntime have, and the model that they ask for."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import click

from ..command import THREADS, Count, echo

if TYPE_CHECKING:
    from ..core.plan import Calls, Use
    from ..model import Model
    from ..session import Session


MODEL = "model.ff"


def model_option(function):  # type: ignore[no-untyped-def]
    """`--model`, which every command that reads a bundle has."""
    return click.option(
        "--model",
        "model_path",
        metavar="DIR",
        envvar="FF_MODEL",
        callback=lambda _context, _option, named: named or found_model(),
        help=f"The bundle; also $FF_MODEL.  [default: {MODEL}, else the digits that come with ffruntime]",
    )(function)


def found_model() -> str:
    """`model.ff` in the working directory; where there is none, the model that comes with the runtime, which is
    said."""
    from ..core import shipped

    if Path(MODEL).exists() or not shipped.MODEL.is_dir():
        return MODEL
    echo(f"no {MODEL} here: taking the model of digits that comes with ffruntime, {shipped.MODEL}", err=True)
    return str(shipped.MODEL)


state_option = click.option(
    "--state",
    metavar="DIR",
    envvar="FF_STATE",
    type=click.Path(path_type=Path),
    help="What was learned; also $FF_STATE. Default: model.state beside model.ff.",
)
shipped_option = click.option("--shipped", is_flag=True, help="As shipped: ignore what was learned.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")


def state_options(function):  # type: ignore[no-untyped-def]
    """`--state` and `--shipped`, which every command that uses what was learned has."""
    return state_option(shipped_option(function))


def state_to_use(state: str | Path | None, shipped: bool) -> str | Path | Literal[False] | None:
    """What `Model` takes as its `state`; a directory that was named and is not there is worth a warning."""
    if shipped:
        return False
    from ..core.bundle import state_there

    if state and not state_there(Path(state)):
        echo(f"warning: {state}: not there, so nothing was learned yet", err=True)
    return state


def backend_options(function):  # type: ignore[no-untyped-def]
    """`--backend`, `--precision` and `--threads`, which every command that runs a graph has."""
    threads = click.option("--threads", type=THREADS, help="CPU threads; default: all cores.")
    backend = click.option(
        "--backend",
        default="onnxruntime-cpu",
        show_default=True,
        help="onnxruntime-cpu, onnxruntime-cuda, onnxruntime-tensorrt or onnxruntime-tensorrt-rtx, which run "
        "graphs; tensorrt or tensorrt-rtx, which run engines that ffexport made.",
    )
    precision = click.option(
        "--precision", default="fp32", show_default=True, help="fp32, or fp16 or int8 where ffexport made it."
    )
    return backend(precision(threads(function)))


def session_of(backend: str, precision: str, threads: int | None) -> Session:
    """The session that the backend options ask for. Raises `UsageError`."""
    from ..core.precision import known_precision
    from ..session import Session

    return Session(backend, known_precision(precision), threads or 0)


class RunOptions(NamedTuple):
    """Which model a command is to run, and on what."""

    model_path: str
    state: Path | None
    shipped: bool
    backend: str
    precision: str
    threads: int | None

    def session(self) -> Session:
        """How its graphs are to be run."""
        return session_of(self.backend, self.precision, self.threads)

    def model(self) -> Model:
        """That model, with what was learned on it unless it is to be as shipped."""
        from ..model import Model

        return Model(self.model_path, session=self.session(), state=state_to_use(self.state, self.shipped))


def running_options(function):  # type: ignore[no-untyped-def]
    """`--model`, `--state`, `--shipped`, `--backend`, `--precision` and `--threads`, which every command that runs
    a model has; it takes them as its first argument, `RunOptions`."""

    @functools.wraps(function)
    def run(**options):  # type: ignore[no-untyped-def]
        return function(RunOptions(**{name: options.pop(name) for name in RunOptions._fields}), **options)

    return model_option(state_options(backend_options(run)))


def budget_options(function):  # type: ignore[no-untyped-def]
    """`--device` and `--memory`: how much is computed at a time."""
    device = click.option(
        "--device", help="Calls as large as fit a device: a profile's name ('ffruntime devices'), or a TOML file."
    )
    memory = click.option(
        "--memory", type=Count(1), metavar="MIB", help="Calls as large as keep the process to that."
    )
    return device(memory(function))


class Budget(NamedTuple):
    """What a device, or a memory limit, leaves; without either, all is None."""

    calls: Calls | None = None
    picture: int | None = None  # bytes for reading a picture, beyond what an ordinary one takes


def within(
    model: Model,
    use: Use,
    device: str | None,
    memory: int | None,
    micro_batch: int | None = None,
    serving: bool = False,
) -> tuple[Model, Budget]:
    """The model, limited to the largest calls that keep to a device's memory, to `memory` MiB, or to both.

    `micro_batch`: how many images are wanted at once. `serving`: in a server's process. A device says the number of
    threads, too, where nobody else did. Without either: as it was, no limits. Raises
    `BackendError` with the numbers where no call is small enough, `BundleError` where it is to learn and cannot.
    """
    if not (device or memory):
        return model, Budget()
    from msgspec import structs

    from ..core.devices import load_profile
    from ..core.plan import MIB, UNLIMITED, beside_server, beside_statistics, choose, device_limits
    from ..session import limited

    if use == "update":
        from ..learning.step import learning_units

        learning_units(model.manifest.network, model.manifest.files)
    limits, threads = UNLIMITED, model.session.threads
    if device:
        profile = load_profile(device)
        limits, threads = device_limits(profile), threads or profile.cpu.cores
    if memory:
        limits = structs.replace(limits, memory=min(limits.memory, memory * MIB))
    limits = structs.replace(limits, micro_batch=micro_batch or limits.micro_batch)
    limits = beside_statistics(model.manifest, use, limits)
    if serving:
        limits = beside_server(model.manifest, len(model.classes), use, limits, model.precision)
    found = choose(model.manifest.network, len(model.classes), use, limits, model.precision)
    calls, needed = found.calls, found.memory
    picture = limits.available - needed.process - needed.weights  # read while the network is at rest
    return model.with_session(limited(model.session, calls.batch, calls.labels, threads)), Budget(calls, picture)
