"""`ffruntime serve`: a page and an API by which a device is asked and taught."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..command import THREADS, Count, Number, echo
from .options import budget_options, json_option, model_option, state_option, within

if TYPE_CHECKING:
    from ..core.plan import Use
    from ..model import Model

EPILOG = """\b
Examples:
  ffruntime serve                               http://127.0.0.1:8080/, for this machine alone
  ffruntime serve --host 0.0.0.0                for the house: a link with a token, as a QR code, shown once
  ffruntime serve --host 0.0.0.0 --open         for everybody who reaches it
  ffruntime serve --new-token                   another link, of a server that runs, too; and end
  ffruntime serve --revoke                      no link counts any more, of a server that runs, too
  ffruntime serve --certificate chain.pem --key key.pem --host 0.0.0.0 --name teach.example.org
  ffruntime serve --memory 160 --camera 0
  curl --data-binary @three.png http://127.0.0.1:8080/api/v1/classify

\b
Exit codes: 0 done, 1 other errors and missing packages, 2 usage, 3 bundle, 6 backend, 8 cannot write, 9 learned
state, 130 interrupted, 143 ended by SIGTERM."""


# Bytes, where no memory limit says less: of a picture's file, of reading one, of all that is sent at a time.
PICTURE, DECODED, SENT = 16 << 20, 64 << 20, 64 << 20
PICTURES, WAITING, JOBS = 20, 16, 4  # in one request to learn; pictures, and jobs, that wait


@click.command(epilog=EPILOG)
@model_option
@state_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Where it listens; 0.0.0.0: all.")
@click.option("--port", type=Count(0, 65535), default=8080, show_default=True, help="0: any that is free.")
@click.option("--name", "names", multiple=True, help="A further name that browsers call this server by.")
@click.option("--open", "is_open", is_flag=True, help="On another address than 127.0.0.1: ask nobody for a token.")
@click.option("--new-token", is_flag=True, help="Make another token, show its link, and end.")
@click.option("--revoke", is_flag=True, help="No token counts any more; and end.")
@click.option("--certificate", type=click.Path(path_type=Path), help="TLS: the certificate's chain, PEM.")
@click.option("--key", type=click.Path(path_type=Path), help="Its key, PEM; default: in the same file.")
@click.option("--camera", metavar="SOURCE", help="The device's own camera, by its number or address.")
@click.option("--unsure", type=Number(0, 0.5), default=0.01, show_default=True, help="As of 'ffruntime classify'.")
@click.option("--rate", type=Number(0.1), default=50, show_default=True, help="Requests a second of one client.")
@click.option("--workers", type=Count(1, 64), help="Pictures answered at once; default: 2, with --memory 1.")
@click.option("--backend", default="onnxruntime-cpu", show_default=True, help="An ONNX Runtime backend.")
@click.option("--threads", type=THREADS, help="CPU threads of one answer; default: all cores.")
@budget_options
@json_option
def serve(
    model_path: str,
    state: Path | None,
    host: str,
    port: int,
    names: tuple[str, ...],
    is_open: bool,
    new_token: bool,
    revoke: bool,
    certificate: Path | None,
    key: Path | None,
    camera: str | None,
    unsure: float,
    rate: float,
    workers: int | None,
    backend: str,
    threads: int | None,
    device: str | None,
    memory: int | None,
    as_json: bool,
) -> None:
    """Serve a page by which anybody in the house asks and teaches the network, and an API.

    Without further options it listens on this machine alone. On another address a token is needed: its link, and
    the QR code of it, are shown once, when it is made.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        from ..core.errors import MissingExtra

        raise MissingExtra(error.name or "starlette", "cpu,serve") from error
    from ..core.errors import UsageError
    from ..core.plan import UPLOADS
    from ..learning.step import Settings as StepSettings
    from ..model import Model
    from ..serve import server
    from ..serve.access import LOOPBACK, Tokens
    from ..serve.api import Context
    from ..serve.app import Gate, application
    from ..serve.camera import Camera
    from ..serve.metrics import Counts
    from ..serve.requests import Uploads
    from ..serve.shapes import Limits
    from ..serve.work import Settings, Work
    from ..session import Session

    model = Model(model_path, session=Session(backend, threads=threads or 0), state=False)
    directory = state or model.bundle.state_directory
    tokens = Tokens(directory)
    if revoke:
        echo(f"{tokens.revoke()} tokens revoked")
        return
    if key and not certificate:
        raise UsageError("--key: of which --certificate?")
    scheme, local = "https" if certificate else "http", host in LOOPBACK
    if new_token:
        place = server.reachable("0.0.0.0" if local else host)
        _say(f"{scheme}://{place}:{port}/", tokens.make(), True, as_json)
        return
    model, (calls, left) = within(model, _use(model), device, memory, serving=True)
    picture, uploads = (DECODED, SENT) if left is None else (left, UPLOADS)
    limits = Limits(min(PICTURE, uploads // 4), PICTURES, uploads // 2, rate, WAITING, JOBS)
    steps = StepSettings(micro_batch=calls.micro_batch) if calls else StepSettings()
    settings = Settings(limits, picture, workers or (1 if calls else 2), unsure, steps, camera is not None)
    private = {str(path): word for path, word in ((model.path, "the model"), (directory, "the state"))}
    private |= {str(Path(path).absolute()): word for path, word in private.items()}
    tls = server.certificate(certificate, key) if certificate else None
    listening = server.bound(host, port)
    work = Work(model, directory, settings, private)
    called = LOOPBACK.union(names, () if local else server.own_names(host))
    gate = Gate(called, not local, None if local or is_open else tokens, rate)
    watched = Camera(camera) if camera is not None else None
    context = Context(work, Uploads(uploads), Counts(), watched)
    address = f"{scheme}://{server.reachable(host)}:{listening.getsockname()[1]}/"
    token = tokens.make() if gate.tokens is not None and not len(tokens) else None

    def started() -> None:
        _say(address, token, gate.tokens is not None, as_json)

    server.serve(application(context, gate), context, listening, tls, started)


def _use(model: Model) -> Use:
    """What most memory has to be left for: to learn, or to answer where the bundle cannot learn."""
    from ..core.errors import BundleError
    from ..learning.step import learning_units

    try:
        learning_units(model.manifest.network, model.manifest.files)
    except BundleError:
        return model.mode()
    return "update"


def _say(address: str, token: str | None, asked: bool, as_json: bool) -> None:
    """Say where the server is, and once how to get in."""
    if as_json:
        echo(json.dumps({"address": address, "token": token}))
        return
    if token:
        from ..serve.server import code

        link = f"{address}#token={token}"
        click.echo(code(link))
        echo(f"{link}\nThis link is shown once; --new-token makes another, --revoke takes all back.")
    elif asked:
        echo(f"{address}\nFor whoever has a link; --new-token makes another.")
    else:
        echo(address)
