"""The files in a folder or in a .zip, alike: their names, and a function that reads one. Nothing is extracted."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from ffruntime.core.errors import DataError
from ffruntime.picture import MAX_BYTES

Name: TypeAlias = tuple[str, ...]  # a file's path below the root, part by part
Reader: TypeAlias = Callable[[Name], bytes]


@contextmanager
def open_tree(path: Path) -> Iterator[tuple[list[Name], Reader]]:
    """(names of all files that are not hidden, sorted; what reads a file, up to one byte more than a picture has).

    Raises `DataError` naming the file, and so does the reader.
    """
    if path.is_dir():
        try:
            names = sorted(_walk(path))
        except OSError as error:
            raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error
        yield names, lambda name: _read_file(path.joinpath(*name))
        return
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such folder, and no such .zip") from error
    except Exception as error:  # zipfile raises anything on what it cannot read
        raise DataError(f"{path}: neither a folder nor a .zip that can be read: {error}") from error
    with archive:
        members = {tuple(filter(None, i.filename.split("/"))): i for i in archive.infolist() if not i.is_dir()}
        names = sorted(name for name in members if not any(map(_is_hidden, name)))
        yield names, lambda name: _read_member(path, archive, members[name])


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"  # which macOS adds to what it packs


def _walk(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Name]:
    """Names of the files below `folder`. A link to a folder that it lies in is not followed."""
    above = (*above, folder.resolve())
    for entry in folder.iterdir():
        if _is_hidden(entry.name):
            continue
        if entry.is_dir():
            if entry.resolve() not in above:
                yield from ((entry.name, *name) for name in _walk(entry, above))
        elif entry.is_file() or entry.is_symlink():
            yield (entry.name,)


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _read_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(member) as file:
            return file.read(MAX_BYTES + 1)
    except Exception as error:  # damaged, encrypted, or packed in an unknown way
        raise DataError(f"{path}/{member.filename}: cannot be unpacked: {error}; pack {path.name} again") from error
