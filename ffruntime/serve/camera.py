"""The device's own camera: its newest frame, as JPEG, for all who watch, read by a thread while anybody does."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
import time
from collections.abc import AsyncIterator

from PIL import Image

from ..core.errors import FFError
from ..pictures.sources import frames
from .refusals import Refused, busy

EVERY = 0.1  # seconds between two frames, at least
LARGEST = 640  # pixels a side of a frame that is sent
QUALITY = 80  # of its JPEG
PATIENCE = 10.0  # seconds for a frame
WATCHERS = 8  # streams at once


class Camera:
    """A source of frames as `ffruntime classify --camera` has it. Used in the event loop's thread."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._watchers: set[asyncio.Queue[bytes | FFError | None]] = set()
        self._thread: threading.Thread | None = None
        self._guard, self._closed = threading.Lock(), False

    async def frame(self) -> bytes:
        """One frame. Raises `Refused` where the camera gives none."""
        stream = self.frames()
        async with contextlib.aclosing(stream):  # type: ignore[type-var]
            async for jpeg in stream:
                return jpeg
        raise busy("the camera gives no frame", 5, "camera")

    async def frames(self) -> AsyncIterator[bytes]:
        """Frames from now on, the newest each time. Raises `Refused` where the camera gives none."""
        if self._closed or len(self._watchers) >= WATCHERS:
            raise busy(f"{WATCHERS} who watch are enough", 5)
        queue: asyncio.Queue[bytes | FFError | None] = asyncio.Queue(1)
        self._watchers.add(queue)
        self._begin()
        try:
            while True:
                try:
                    found = await asyncio.wait_for(queue.get(), PATIENCE)
                except asyncio.TimeoutError as error:
                    raise busy("the camera gives no frame", 5, "camera") from error
                if found is None:
                    return
                if isinstance(found, FFError):
                    raise Refused(503, "camera", "the camera cannot be used: is it there, and free?") from found
                yield found
        finally:
            self._watchers.discard(queue)

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        self._tell(None)

    def _begin(self) -> None:
        with self._guard:
            if self._thread is None:
                loop = asyncio.get_running_loop()
                self._thread = threading.Thread(target=self._read, args=(loop,), name="camera", daemon=True)
                self._thread.start()

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread of its own, while anybody watches."""
        last: FFError | None = None
        try:
            before = 0.0
            with contextlib.closing(frames(self._source)) as stream:  # type: ignore[type-var]
                for _, get in stream:
                    with self._guard:
                        if not self._watchers or self._closed:
                            self._thread = None
                            return
                    if (wait := before + EVERY - time.monotonic()) > 0:
                        time.sleep(wait)
                    before = time.monotonic()
                    loop.call_soon_threadsafe(self._tell, _jpeg(get()))
        except FFError as error:
            last = error
        except RuntimeError:  # the loop has ended
            return
        with self._guard:
            self._thread = None
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._tell, last)

    def _tell(self, what: bytes | FFError | None) -> None:
        for queue in self._watchers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(what)


def _jpeg(picture: Image.Image) -> bytes:
    picture.thumbnail((LARGEST, LARGEST))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
