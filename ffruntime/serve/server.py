"""The server's life: an address, a link and its code, and an end in order."""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from ..core.errors import FFError, UsageError
from .work import Work

CONNECTIONS = 128  # at once; one more is answered 503
GRACE = 5  # seconds for requests that are being answered when the server ends
HEADER = 16 << 10  # bytes of a request's head


def bound(host: str, port: int) -> socket.socket:
    """A socket at that address. Raises `UsageError` where it cannot be had."""
    try:
        (family, *_, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        found = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"--host {host}: {error.strerror or error}") from error
    try:
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


def code(link: str) -> str:
    """A link as a QR code in half blocks."""
    import segno

    text = io.StringIO()
    segno.make(link, error="m").terminal(text, compact=True)
    return text.getvalue()


class Server(uvicorn.Server):
    """uvicorn, which ends open streams and what is learned before it waits for connections."""

    def __init__(self, config: uvicorn.Config, work: Work, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._work, self._started = work, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._work.jobs.stop()
        self._work.events.close()
        await super().shutdown(sockets)


def serve(
    app: Starlette, work: Work, listening: socket.socket, tls: ssl.SSLContext | None, started: Callable[[], None]
) -> None:
    """Serve until a signal ends it, which is then raised anew. `started` is called when it answers."""
    logging.getLogger("ffruntime.serve").addHandler(logging.StreamHandler())
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
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
        h11_max_incomplete_event_size=HEADER,
        ssl_context_factory=(lambda _config, _default: tls) if tls else None,
    )
    server = Server(config, work, started)
    server.run([listening])
    if not server.started:
        raise FFError("the server did not start")
