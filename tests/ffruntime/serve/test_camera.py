"""The device's own camera: one reader for all who watch, who are told where it gives nothing."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from functools import partial

import pytest
from PIL import Image

from ffruntime.core.errors import ImageError
from ffruntime.pictures.sources import PictureSource
from ffruntime.serve import camera
from ffruntime.serve.camera import Camera
from ffruntime.serve.refusals import Refused

opened: list[str] = []


def endless(source: str) -> Iterator[PictureSource]:
    """A camera whose frames are of one colour each, and large."""
    opened.append(source)
    for count in range(10_000):
        yield f"frame {count}", partial(Image.new, "RGB", (1280, 960), (count * 37 % 256, 0, 0))


def broken(source: str) -> Iterator[PictureSource]:
    yield from ()
    raise ImageError(f"camera {source}: cannot be opened: is it there, and free?")


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera, "EVERY", 0.01)
    opened.clear()


def test_two_watch_one_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera, "frames", endless)

    async def watch() -> None:
        watched = Camera("0")
        first, second = watched.frames(), watched.frames()
        seen = [await first.__anext__(), await second.__anext__(), await first.__anext__()]
        assert all(Image.open(io.BytesIO(jpeg)).size == (640, 480) for jpeg in seen)
        assert len(set(seen)) > 1  # newer ones
        watched.close()
        assert [one async for one in first] == []
        with pytest.raises(Refused, match="enough"):
            await watched.frame()

    asyncio.run(watch())
    assert opened == ["0"]


def test_a_camera_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera, "frames", broken)
    with pytest.raises(Refused, match="is it there") as refused:
        asyncio.run(Camera("/dev/video9").frame())
    assert (refused.value.status, refused.value.code) == (503, "camera")
    assert "/dev" not in refused.value.message
