"""The server's life: an address, a link and its code, and an end in order."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..core.errors import FFError, UsageError
from .api import Context

CONNECTIONS = 128  # at once; one more is answered 503
GRACE = 5  # seconds for requests that are being answered when the server ends
HEAD_BYTES = 16 << 10  # of a request's head
HEAD = 10.0  # seconds for it


def bound(host: str, port: int) -> socket.socket:
    """A socket at that address. Raises `UsageError` where it cannot be had."""
    try:
        (family, *_, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        found = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"--host {host}: {error.strerror or error}") from error
    try:
        if os.name != "nt":  # where it would let two servers have one port
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(CONNECTIONS)
    except OSError as error:
        found.close()
        raise UsageError(
            f"{host}, port {port}: {error.strerror}; --port names another, 0 any that is free"
        ) from error
    return found


def certificate(cert: Path, key: Path | None) -> ssl.SSLContext:
    """A context for TLS with a certificate and its key. Raises `UsageError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"--certificate {cert}: {getattr(error, 'strerror', None) or error}") from error
    return context


def reachable(host: str) -> str:
    """An address by which others reach a server that listens at `host`."""
    if host not in ("0.0.0.0", "::", ""):
        return f"[{host}]" if ":" in host else host
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address (RFC 5737); nothing is sent
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


def own_names(host: str) -> set[str]:
    """What browsers in the house may call a server that listens at `host`, beside an IP address."""
    own = socket.gethostname().casefold()
    return {host, own, f"{own.partition('.')[0]}.local"}


def code(link: str) -> str:
    """A link as a QR code in half blocks."""
    import segno

    text = io.StringIO()
    segno.make(link, error="m").terminal(text, compact=True)
    return text.getvalue()


class Impatient(H11Protocol):
    """A connection that is closed where a request's head does not come within `HEAD` seconds."""

    _until: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._until:
            self._until.cancel()

    def _wait(self) -> None:
        """Wait for a head while no request is in progress, from the first moment on that none is."""
        if self.cycle is not None and not self.cycle.response_complete:
            if self._until:
                self._until.cancel()
            self._until = None
        elif self._until is None:
            self._until = asyncio.get_running_loop().call_later(HEAD, self.transport.close)


class Server(uvicorn.Server):
    """uvicorn, which ends open streams and what is learned before it waits for connections."""

    def __init__(self, config: uvicorn.Config, context: Context, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._context, self._started = context, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._context.work.jobs.stop()
        self._context.work.events.close()
        if self._context.camera:
            self._context.camera.close()
        await super().shutdown(sockets)


def serve(
    app: Starlette,
    context: Context,
    listening: socket.socket,
    tls: ssl.SSLContext | None,
    started: Callable[[], None],
) -> None:
    """Serve until a signal ends it, which is then raised anew. `started` is called when it answers."""
    logging.getLogger("ffruntime.serve").addHandler(logging.StreamHandler())
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # what is wrong with a form is answered
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=Impatient,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE,
        h11_max_incomplete_event_size=HEAD_BYTES,
        ssl_context_factory=(lambda _config, _default: tls) if tls else None,
    )
    server = Server(config, context, started)
    server.run([listening])
    if not server.started:
        raise FFError("the server did not start")
