"""Where pictures come from: files, folders, a folder that is watched, a camera.

A stream is an iterator of `PictureSource`: what a picture is called, and how to get it. Getting it raises
`ImageError` where that fails; the stream goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from PIL import Image

from ..core.errors import ImageError, MissingExtra, UsageError
from .picture import MAX_BYTES, decode_picture, read_picture, upright
from .picture_file import SUFFIXES

if TYPE_CHECKING:
    import numpy as np

PictureSource: TypeAlias = tuple[str, Callable[[], Image.Image]]
Stamp: TypeAlias = tuple[int, int, int]  # inode, size in bytes, time of the last change in ns

INTERVAL = 0.2  # seconds between two looks at a folder


def pictures(paths: Iterable[str], memory_limit: int | None = None) -> Iterator[PictureSource]:
    """Pictures at `paths`; of a folder all that are in it, by name, none of folders in it. `-`: standard input.

    `memory_limit`, here and below: bytes that getting one may take, as for `read_picture`.
    """
    for path in paths:
        if not path:  # which `Path` would take for the working directory
            yield path, partial(_refuse, "'': no name of a picture or folder")
            continue
        listed = _listing(path)
        if listed is None:
            yield path, partial(read_picture, path, memory_limit)
        elif not listed:
            yield path, partial(_refuse, f"{path}: no pictures in this folder ({' '.join(SUFFIXES)})")
        for file in listed or ():
            yield str(file), partial(read_picture, str(file), memory_limit)


def picture_of(source: object) -> Image.Image:
    """A picture that a program has: a path, the bytes of a file, an open file, or an image of Pillow; upright.

    Raises `ImageError` where it cannot be used, `UsageError` for anything else.
    """
    if isinstance(source, (str, os.PathLike)):
        return read_picture(os.fsdecode(source))
    if isinstance(source, Image.Image):
        return upright(source, "image of Pillow")
    data = source.read(MAX_BYTES + 1) if hasattr(source, "read") else source
    if isinstance(data, (bytes, bytearray, memoryview)):
        return decode_picture(bytes(data), "picture in memory")
    kind = type(source).__name__
    raise UsageError(f"picture: must be a path, bytes, a binary file, an image of Pillow or an array, not {kind}")


def _listing(path: str) -> list[Path] | None:
    """Pictures in a folder; None of what is no folder, or cannot be read."""
    try:
        return sorted(file for file in Path(path).iterdir() if is_picture(file))
    except OSError:
        return None


def is_picture(file: Path) -> bool:
    """Whether a file is one by its name; pipes, and hidden ones, which programs write before they rename them, are
    not."""
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and not file.is_fifo()


def _refuse(message: str) -> Image.Image:
    raise ImageError(message)


def arrivals(folder: Path, interval: float = INTERVAL, memory_limit: int | None = None) -> Iterator[PictureSource]:
    """Pictures that appear in a folder or change, from this call on, each once it is completely written; no end.

    A picture is complete when two looks, `interval` seconds apart, find the same file, of the same size and time of
    change, and not empty. Raises `ImageError` where the folder cannot be read, or no longer.
    """
    return _arrivals(folder, _stamps(folder), interval, memory_limit)


def _arrivals(
    folder: Path, known: dict[Path, Stamp], interval: float, memory_limit: int | None
) -> Iterator[PictureSource]:
    before = known
    while True:
        time.sleep(interval)
        now = _stamps(folder)
        known = {file: stamp for file, stamp in known.items() if file in now}  # a deleted one may come again
        for file in sorted(now):
            if now[file] == before.get(file) != known.get(file):
                known[file] = now[file]
                yield str(file), partial(read_picture, str(file), memory_limit)
        before = now


def _stamps(folder: Path) -> dict[Path, Stamp]:
    """Of every picture in a folder that is not empty, what changes when it does."""
    try:
        files = [file for file in folder.iterdir() if is_picture(file)]
    except OSError as error:
        raise ImageError(f"{folder}: cannot be watched: {error.strerror}") from error
    stamps = {}
    for file in files:
        try:
            status = file.stat()
        except OSError:  # gone in between, or a link to nothing
            continue
        if status.st_size:
            stamps[file] = status.st_ino, status.st_size, status.st_mtime_ns
    return stamps


def frames(source: str) -> Iterator[PictureSource]:
    """Frames of a camera, by its number, or of a video, a file or an address: whatever OpenCV opens.

    A video ends. Raises `MissingExtra` without OpenCV, `ImageError` where the source cannot be opened, or a camera
    gives no more frames.
    """
    try:
        import cv2
    except ImportError as error:
        raise MissingExtra("opencv-python-headless", "camera") from error
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what goes wrong is said below, in one line
    camera = source.isdecimal()
    name = f"camera {source}" if camera else source
    capture = cv2.VideoCapture(int(source) if camera else source)
    try:
        if not capture.isOpened():
            raise ImageError(f"{name}: cannot be opened: is it there, and free?")
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # a camera's newest frame, not the oldest that waits
        count = 0
        while (read := capture.read())[0]:
            count += 1
            yield f"{name} frame {count}", partial(_picture, read[1])
        if camera or not count:
            raise ImageError(f"{name}: no more frames after {count}")
    finally:
        capture.release()


def _picture(frame: np.ndarray) -> Image.Image:
    """A frame as OpenCV has it: uint8 (H, W, 3), blue first."""
    return Image.fromarray(frame[..., ::-1])
