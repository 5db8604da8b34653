"""Server-sent events: who listens, and what each of them still has to be told (HTML standard, section 9.2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from msgspec import Struct
from msgspec.json import encode

from .refusals import busy
from .shapes import Job

LISTENERS = 32
WAITING = 64  # events that may wait for a listener; of more, the oldest are dropped
SILENCE = 15.0  # seconds between two comments, which keep a connection open


class Events:
    """Used in the event loop's thread alone."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[bytes | None]] = set()
        self._number, self._closed = 0, False

    def tell(self, name: str, what: Struct) -> None:
        """Tell everybody. Of a job that nobody has read of yet, the newest alone is told."""
        self._number += 1
        event = f"id: {self._number}\nevent: {name}\ndata: ".encode() + encode(what) + b"\n\n"
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    def listen(self, first: Struct, name: str, job: Job | None) -> AsyncIterator[bytes]:
        """All events from now on, after the first one. Raises `Refused` where too many listen."""
        if self._closed or len(self._listeners) >= LISTENERS:
            raise busy(f"{LISTENERS} listeners are enough", 10)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(WAITING)
        queue.put_nowait(b"retry: 2000\nevent: " + name.encode() + b"\ndata: " + encode(first) + b"\n\n")
        if job:
            queue.put_nowait(b"event: job\ndata: " + encode(job) + b"\n\n")
        self._listeners.add(queue)
        return self._told(queue)

    async def _told(self, queue: asyncio.Queue[bytes | None]) -> AsyncIterator[bytes]:
        try:
            while True:
                try:
                    event = await asyncio.wait_for(queue.get(), SILENCE)
                except asyncio.TimeoutError:
                    event = b": still here\n\n"
                if event is None:
                    return
                yield event
        finally:
            self._listeners.discard(queue)

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        for queue in self._listeners:
            while queue.full():
                queue.get_nowait()
            queue.put_nowait(None)

    def __len__(self) -> int:
        return len(self._listeners)
