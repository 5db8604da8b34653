"""The application: the page, the API, and who gets in."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from pathlib import Path

from msgspec import Struct
from msgspec.json import encode
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .access import Access, Tokens
from .api import ENDPOINTS, PREFIX, Context, Endpoint
from .refusals import Refused, refusal

FOLDER = Path(__file__).parent
PAGE = {  # files of the page, by their paths
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
LOOK = 1.0  # seconds between two looks for what another process has learned
log = logging.getLogger("ffruntime.serve")


class Gate(Struct, frozen=True):
    """Who gets in, as `Access` takes it."""

    names: Collection[str]
    any_address: bool
    tokens: Tokens | None
    rate: float


def application(context: Context, gate: Gate) -> Starlette:
    """The application, which closes the work when it ends."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        looking = asyncio.create_task(_look(context))
        context.work.resume()
        try:
            yield
        finally:
            looking.cancel()
            context.work.close()

    paths: dict[str, list[Endpoint]] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, []).append(endpoint)
    routes = [
        Route(
            f"{PREFIX}{path.replace('{id}', '{id:int}')}", _handler(context, some), methods=[e.method for e in some]
        )
        for path, some in paths.items()
    ]
    pages = [Route(path, _file(*file), methods=["GET"]) for path, file in PAGE.items()]
    access = Middleware(
        Access,
        names=gate.names,
        any_address=gate.any_address,
        tokens=gate.tokens,
        rate=gate.rate,
        api=PREFIX,
        free=[f"{PREFIX}{endpoint.path}" for endpoint in ENDPOINTS if endpoint.free],
    )
    app = Starlette(
        routes=[*pages, *routes],
        middleware=[access],
        exception_handlers={HTTPException: _not_there},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # one address for one thing
    return app


def _handler(context: Context, some: list[Endpoint]) -> Callable[[Request], Awaitable[Response]]:
    """What answers the requests of one path."""
    by_method = {endpoint.method: endpoint for endpoint in some}

    async def handle(request: Request) -> Response:
        endpoint = by_method["GET" if request.method == "HEAD" else request.method]
        try:
            found = await endpoint.handler(context, request)
            code, what = found if isinstance(found, tuple) else (200, found)
            response = what if isinstance(what, Response) else _json(what, code)
        except Exception as error:
            refused = refusal(error, context.work.private)
            if refused.status == 500:
                log.exception("%s %s", request.method, endpoint.path)
            response = _refusal(refused)
        context.counts.request(endpoint.path, response.status_code)
        return response

    return handle


def _json(what: Struct, code: int = 200) -> Response:
    return Response(encode(what), code, media_type="application/json")


def _refusal(refused: Refused) -> Response:
    return Response(encode(refused.body), refused.status, refused.headers, media_type="application/json")


async def _not_there(_request: Request, error: Exception) -> Response:
    """What the router refuses."""
    assert isinstance(error, HTTPException)
    code, said = ("method", "no such method") if error.status_code == 405 else ("unknown", "there is nothing here")
    headers = {name: value for name, value in (error.headers or {}).items() if name.lower() == "allow"}
    return _refusal(Refused(error.status_code, code, said, headers))


def _file(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    """What answers with a file of the page."""

    @functools.cache
    def content() -> bytes:
        return (FOLDER / name).read_bytes()

    async def answer(_request: Request) -> Response:
        return Response(content(), media_type=media_type, headers={"Cache-Control": "no-cache"})

    return answer


async def _look(context: Context) -> None:
    while True:
        await asyncio.sleep(LOOK)
        await context.work.look()
