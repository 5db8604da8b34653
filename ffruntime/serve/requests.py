"""What a request says: its query, and a body that may be large, slow, or of several files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from .refusals import Refused, busy

PATIENCE = 30.0  # seconds for a whole body
FIELDS = 16  # of a form, beside its files
Q = TypeVar("Q", bound=msgspec.Struct)


class Uploads:
    """How many bytes of bodies are in memory, of how many that may be. Used in the event loop's thread."""

    def __init__(self, budget: int) -> None:
        self.budget, self.taken = budget, 0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """What one request takes of it, for as long as the block runs."""
        share = Share(self)
        try:
            yield share
        finally:
            self.taken -= share.taken


class Share:
    """A request's share of the budget."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads, self.taken, self.most = uploads, 0, uploads.budget

    def take(self, size: int) -> None:
        """Raises `Refused` where that is not left."""
        if self._uploads.taken + size > self._uploads.budget:
            raise busy("too many uploads are in memory", 2)
        self.taken += size
        self._uploads.taken += size


def query(request: Request, kind: type[Q]) -> Q:
    """The query of a request. Raises `Refused` where it cannot be understood."""
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    found: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        several = name in fields and isinstance(fields[name].default, tuple)
        if several:
            found.setdefault(name, []).append(value)
        elif name in found:
            raise Refused(400, "request", f"{name}: is said twice")
        else:
            found[name] = value
    try:
        return msgspec.convert(found, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Refused(400, "request", f"query: {error}") from error


async def body(request: Request, share: Share, most: int) -> bytes:
    """The body, or the one file of a form. Raises `Refused`."""
    files = await bodies(request, share, most, 1)
    return files[0]


async def bodies(request: Request, share: Share, most: int, files: int) -> list[bytes]:
    """The body, or the files of a form: at most so many, each of at most so many bytes. Raises `Refused`."""
    form = request.headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data"
    limit = min(most * files + (1 << 16) if form else most, share.most // 2)  # a form's files are copied
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > limit:
        raise _large(limit)
    try:
        reading = _files(request, share, most, files, limit) if form else _whole(request, share, limit)
        return await asyncio.wait_for(reading, PATIENCE)
    except asyncio.TimeoutError as error:
        raise Refused(408, "slow", f"the body did not come within {PATIENCE:.0f} seconds") from error
    except ClientDisconnect as error:
        raise Refused(400, "request", "the body was not sent to its end") from error


async def _whole(request: Request, share: Share, limit: int) -> list[bytes]:
    data = bytearray()
    async for chunk in _counted(request, share, limit):
        data += chunk
    if not data:
        raise Refused(422, "picture", "the body is empty")
    return [bytes(data)]


async def _files(request: Request, share: Share, most: int, files: int, limit: int) -> list[bytes]:
    parser = _InMemory(
        request.headers, _counted(request, share, limit), max_files=files, max_fields=FIELDS, max_part_size=1 << 12
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused(400, "request", f"form: {error.message}") from error
    except (ValueError, KeyError) as error:
        raise Refused(400, "request", "form: cannot be understood") from error
    found = []
    try:
        for _, value in form.multi_items():
            if isinstance(value, str):
                raise Refused(400, "request", "form: has a field that is no file; options are in the query")
            share.take(value.size or 0)
            data = await value.read()
            if len(data) > most:
                raise _large(most)
            found.append(data)
    finally:
        await form.close()
    if not found:
        raise Refused(422, "picture", "the form has no file")
    return found


class _InMemory(MultiPartParser):
    """Files of a form stay in memory, which is counted: what somebody photographs is on no disk."""

    spool_max_size = 1 << 62


async def _counted(request: Request, share: Share, limit: int) -> AsyncGenerator[bytes, None]:
    taken = 0
    async for chunk in request.stream():
        taken += len(chunk)
        if taken > limit:
            raise _large(limit)
        share.take(len(chunk))
        yield chunk


def _large(limit: int) -> Refused:
    return Refused(413, "large", f"more than {limit / (1 << 20):.1f} MiB")
