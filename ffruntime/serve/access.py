"""Who gets in: hosts and origins, tokens and how many requests; and what every answer forbids a browser.

The threats, and the test of each, are in `docs/serve.md`.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import json
import re
import secrets
import time
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import urlsplit

from msgspec.json import encode
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..core.durable import write_atomically
from ..core.errors import StateError
from .refusals import Refused

TOKENS = "serve.tokens.json"  # in the state directory: hashes alone
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
CLIENTS = 1024  # whose requests are counted
BURST = 2.0  # seconds' worth of requests at once
HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]/@\s]+)(?::\d{1,5})?")
TOKEN = "ffedge.token"  # in the scope: the one that a request came with

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}


class Tokens:
    """Tokens that count, by their hashes in a file, which another process may change.

    A token has 256 bits of chance, so that a plain SHA-256 of it tells nobody what it is."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / TOKENS
        self._stamp: tuple[int, int] | None = None
        self._hashes: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self._read())

    def make(self) -> str:
        """A new token, which nobody can be told again. Raises `StorageError`."""
        token = secrets.token_urlsafe(32)
        self._write(self._read() | {_hash(token)})
        return token

    def revoke(self) -> int:
        """No token counts any more; how many did. Raises `StorageError`."""
        before = len(self._read())
        self._write(frozenset())
        return before

    def count(self, token: str) -> bool:
        """Whether a token counts."""
        asked = _hash(token)
        return sum(hmac.compare_digest(asked, known) for known in self._read()) > 0

    def _read(self) -> frozenset[str]:
        try:
            status = self._file.stat()
            stamp = status.st_ino, status.st_mtime_ns
            if stamp != self._stamp:
                hashes = json.loads(self._file.read_text())["sha256"]
                if not all(isinstance(one, str) for one in hashes):
                    raise ValueError
                self._hashes, self._stamp = frozenset(hashes), stamp
        except FileNotFoundError:
            self._hashes, self._stamp = frozenset(), None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StateError(f"{self._file}: damaged; delete it, and make another token") from error
        return self._hashes

    def _write(self, hashes: frozenset[str]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._file, json.dumps({"sha256": sorted(hashes)}).encode())


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Rate:
    """How many requests each client has left: buckets that fill again (token bucket)."""

    def __init__(self, each_second: float) -> None:
        self.each_second = each_second
        self._left: dict[str, tuple[float, float]] = {}  # by address: requests, and when

    def take(self, client: str) -> None:
        """Raises `Refused` where a client has none left."""
        most, now = max(1.0, self.each_second * BURST), time.monotonic()
        left, when = self._left.pop(client, (most, now))
        left = min(most, left + (now - when) * self.each_second)
        if len(self._left) >= CLIENTS:
            self._left.pop(next(iter(self._left)))  # whom nobody has heard of for longest
        self._left[client] = (left - 1, now) if left >= 1 else (left, now)
        if left < 1:
            wait = max(1, round((1 - left) / self.each_second))
            raise Refused(429, "rate", "too many requests", {"Retry-After": str(wait)})


class Access:
    """Middleware: lets through who may come in, and puts what a browser has to heed on every answer."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        names: Collection[str],
        any_address: bool,
        tokens: Tokens | None,
        rate: float,
        api: str,
        free: Collection[str],
    ) -> None:
        """`names`: hosts that this server may be called; with `any_address` whatever is an IP address, too, which
        no DNS can rebind. `tokens`: None: nobody is asked for one. `free`: paths below `api` that need none."""
        self._app, self._names, self._any_address = app, {name.casefold() for name in names}, any_address
        self._tokens, self._rate, self._api, self._free = tokens, Rate(rate), api, frozenset(free)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            self._rate.take(scope["client"][0] if scope["client"] else "")
            self._require(scope)
        except Refused as refused:
            response = Response(
                encode(refused.body), refused.status, refused.headers, media_type="application/json"
            )
            await response(scope, receive, sending)
            return
        await self._app(scope, receive, sending)

    def _require(self, scope: Scope) -> None:
        """Raises `Refused` for a request that does not come from this server's page or from whom it knows."""
        headers, path = Headers(scope=scope), scope["path"]
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._ours(hosts[0]):
            raise Refused(403, "host", "this server has another name: --name tells it one")
        origin, inside = headers.get("origin"), path.startswith(self._api)
        if origin is not None and not self._same(origin, hosts[0], scope["scheme"]):
            raise Refused(403, "origin", "requests of other sites' pages are not served")
        if inside and headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise Refused(403, "origin", "requests of other sites' pages are not served")
        if not inside or path in self._free or self._tokens is None:
            return
        token = _token(headers, scope)
        if token is None or not self._counts(token):
            raise Refused(
                401,
                "token",
                "a token is needed: the link or the code that the server showed has one",
                {"WWW-Authenticate": "Bearer"},
            )
        scope[TOKEN] = token

    def _counts(self, token: str) -> bool:
        """Whether a token counts; none does where their file is damaged."""
        with contextlib.suppress(StateError):
            return self._tokens is not None and self._tokens.count(token)
        return False

    def _ours(self, host: str) -> bool:
        match = HOST.fullmatch(host)
        if not match:
            return False
        name = match[1].strip("[]").casefold()
        return name in self._names or (self._any_address and _is_address(name))

    def _same(self, origin: str, host: str, scheme: str) -> bool:
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        ours = ("https",) if scheme == "https" else ("http", "https")  # a proxy may have TLS for us
        return parts.scheme in ours and parts.netloc.casefold() == host.casefold()


def cookie_name(scope: Scope) -> str:
    """Of the cookie with the token: one for each port, as browsers do not tell ports apart."""
    server = scope.get("server")
    return f"ffedge_{server[1] if server else 0}"


def _token(headers: Headers, scope: Scope) -> str | None:
    kind, _, token = headers.get("authorization", "").partition(" ")
    if token:
        return token.strip() if kind.casefold() == "bearer" else None
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(cookie_name(scope))
    except CookieError:
        return None
    return cookie.value if cookie else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
