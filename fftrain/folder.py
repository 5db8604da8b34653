"""A user's own pictures: a folder or a .zip of PATH/<class>/….png, or of PATH/{train,test,val}/<class>/….png."""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TypeAlias

import numpy as np
from msgspec import Struct
from rich.console import Console
from rich.progress import track

from ffruntime.core.data import Examples
from ffruntime.core.errors import DataError, ImageError
from ffruntime.core.folders import is_hidden
from ffruntime.core.manifest import Photo
from ffruntime.core.reading import open_regular, read_at_most
from ffruntime.pictures import picture
from ffruntime.pictures.picture import MAX_BYTES

from .sets import choose_classes
from .tree import NAMED, Labelled, Name, Parts, arrange, check, split, told

LARGEST = 64  # pixels a side, where no size is asked for
SIZED = 1_000  # pictures whose size is looked at to choose one
MANY = 2_000  # pictures, from which on a bar is shown

Reader: TypeAlias = Callable[[Name], bytes]
Tell: TypeAlias = Callable[[str], None]  # a line for whoever trains


def nothing(_: str) -> None:
    """Tell nobody."""


class Files(Struct, frozen=True):
    """A folder's files that are not hidden, and its folders without any, sorted; what reads a file."""

    names: list[Name]
    empty: list[Name]
    read: Reader  # up to one byte more than a picture has; raises `DataError`


class Folder(Struct, frozen=True):
    """The pictures as images for training, validation and testing, and what is to be said of them."""

    parts: tuple[Examples, Examples, Examples]
    classes: tuple[str, ...]
    source: str
    content: str  # a hash of which pictures are in which part, of which class, in order


def choose_size(pictures: Labelled, read: Reader, path: Path) -> int:
    """The median of the pictures' shorter sides, at most `LARGEST`: pixels. Damaged ones do not count here."""
    sides = []
    for file, _ in pictures[:: -(-len(pictures) // SIZED)]:
        with contextlib.suppress(ImageError, DataError):
            sides.append(picture.shorter_side(read(file), _display(path, file)))
    return min(LARGEST, int(median(sides))) if sides else LARGEST


def read_pictures(
    pictures: Labelled,
    read: Reader,
    path: Path,
    size: int,
    channels: int | None = None,
    tell: Tell = nothing,
) -> tuple[Examples, list[bytes]]:
    """The pictures as `ffruntime classify` prepares them: uint8 (N, C, size, size) and labels (N,), and the hash of
    each file.

    C is `channels`; by default 1 where all of them are grey, else 3. Raises `DataError` naming the files that
    cannot be used, all of which are told.
    """
    pixels, hashes, refused = np.empty((len(pictures), channels or 3, size, size), np.uint8), [], []
    bar = track(
        pictures,
        "reading pictures",
        console=Console(stderr=True),
        transient=True,
        disable=len(pictures) < MANY,
    )
    for image, (file, _) in zip(pixels, bar, strict=True):
        name = _display(path, file)
        try:
            data = read(file)
            image[:] = picture.prepare(picture.decode_picture(data, name), name, Photo(), image.shape)
            hashes.append(hashlib.blake2b(data, digest_size=16).digest())
        except ImageError as error:  # what cannot be used on a device cannot be trained on
            refused.append(DataError(f"{error}; replace that picture, or take it away"))
        except DataError as error:
            refused.append(error)
    if refused:
        _refuse(refused, path, len(pictures), tell)
    if channels is None and (pixels == pixels[:, :1]).all():
        pixels = np.ascontiguousarray(pixels[:, :1])
    return Examples(pixels, np.array([label for _, label in pictures], np.int64)), hashes


def _refuse(refused: Sequence[DataError], path: Path, count: int, tell: Tell) -> None:
    if len(refused) == 1:
        raise refused[0]
    for error in refused:
        tell(str(error))
    names = "; ".join(str(error).partition("; ")[0] for error in refused[:NAMED])
    more = f"; and {len(refused) - NAMED:,} more" if len(refused) > NAMED else ""
    raise DataError(
        f"{path}: {len(refused):,} of {count:,} pictures cannot be used: {names}{more}; replace or remove them"
    )


def read_folder(
    path: Path,
    seed: int,
    classes: str | Sequence[str] | None = None,
    size: int | None = None,
    channels: int | None = None,
    parts: Parts | None = None,
    tell: Tell = nothing,
) -> Folder:
    """The pictures at `path` in three parts, all `size` pixels a side. `parts`: which folders are which, by default
    as their names say. What is found, left out and odd is told. Raises `DataError`."""
    with open_tree(path) as files:
        asked = classes.split(",") if isinstance(classes, str) else classes or ()
        tree = arrange(files.names, files.empty, {name.strip() for name in asked}, parts)
        check(tree, path, bool(classes))
        chosen = tuple(tree.classes[index] for index in choose_classes(classes, tree.classes))
        pictures = split(tree, chosen, path, seed)
        for line in told(tree, pictures, chosen):
            tell(line)
        everything = [*pictures[0], *pictures[1], *pictures[2]]
        side = size or choose_size(everything, files.read, path)
        images, hashes = read_pictures(everything, files.read, path, side, channels, tell)
    places = [slice(*ends) for ends in pairwise([0, *np.cumsum([len(part) for part in pictures]).tolist()])]
    for line in _identical(everything, hashes, places):
        tell(line)
    train, validation, test = (images.take(place) for place in places)
    why = "as asked" if size else f"the median of the shorter sides, at most {LARGEST}"
    source = "; ".join(
        [
            f"folder {path}",
            f"{len(images):,} pictures of {len(chosen)} classes",
            f"{side} × {side} pixels ({why}), {'grey' if images.pixels.shape[1] == 1 else 'colour'}",
            *(
                f"{part}: {'as the folder has it' if part in tree.parts else '10 % of each class'}"
                for part in ("validation", "test")
            ),
        ]
    )
    content = hashlib.sha256()
    for place in places:
        for (_, label), found in zip(everything[place], hashes[place], strict=True):
            content.update(f"{label}:{found.hex()},".encode())
        content.update(b";")
    return Folder((train, validation, test), chosen, source, content.hexdigest())


def _identical(pictures: Labelled, hashes: Sequence[bytes], places: Sequence[slice]) -> Iterator[str]:
    """Lines about identical files of two classes, or of two parts."""
    first: dict[bytes, int] = {}
    part = np.concatenate([np.full(place.stop - place.start, number) for number, place in enumerate(places)])
    labels, parts = [], []
    for index, found in enumerate(hashes):
        other = first.setdefault(found, index)
        if pictures[index][1] != pictures[other][1]:
            labels.append((other, index))
        elif part[index] != part[other]:
            parts.append((other, index))
    for pairs, what in (
        (labels, "in two classes, of which one at most is right"),
        (parts, "in two of the parts for training, validation and testing, so accuracy tells less than it seems"),
    ):
        if pairs:
            one, two = ("/".join(pictures[index][0]) for index in pairs[0])
            yield f"identical files {what}: {len(pairs):,}, such as {one} and {two}"


def _display(path: Path, name: Name) -> str:
    return str(path.joinpath(*name))


# Files in a folder or in a .zip, alike. Nothing is extracted.


@contextmanager
def open_tree(path: Path) -> Iterator[Files]:
    """The files of a folder or of a .zip. Raises `DataError` naming the file that cannot be read."""
    if path.is_dir():
        try:
            found = sorted(_walk(path))
        except OSError as error:
            raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error
        names, empty = _parted(found)
        yield Files(names, empty, lambda name: _read_file(path.joinpath(*name)))
        return
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such folder, and no such .zip") from error
    except Exception as error:  # zipfile raises anything on what it cannot read
        raise DataError(f"{path}: neither a folder nor a .zip that can be read: {error}") from error
    with archive:
        members = {name: member for member in archive.infolist() if (name := _member_name(member))}
        found = sorted((name, member.is_dir()) for name, member in members.items())
        names, empty = _parted([one for one in found if not any(map(is_hidden, one[0]))])
        yield Files(names, empty, lambda name: _read_member(path, archive, members[name]))


def _parted(found: Sequence[tuple[Name, bool]]) -> tuple[list[Name], list[Name]]:
    """Files, and folders without any below them, of names that say which they are."""
    names = [name for name, is_folder in found if not is_folder]
    above = {name[:depth] for name in names for depth in range(1, len(name))}
    return names, [name for name, is_folder in found if is_folder and name not in above]


def _member_name(member: zipfile.ZipInfo) -> Name:
    """A member's name, part by part: Windows' own separators, `./`, and UTF-8 that is not marked so are taken."""
    name = member.filename
    if not member.flag_bits & 0x800:  # zipfile has read it as code page 437
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _walk(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[tuple[Name, bool]]:
    """Names of the files and folders below `folder`, and whether it is a folder. A link to a folder that it lies in
    is not followed."""
    above = (*above, folder.resolve())
    for entry in folder.iterdir():
        if is_hidden(entry.name):
            continue
        if entry.is_dir():
            if entry.resolve() not in above:
                yield (entry.name,), True
                yield from (((entry.name, *name), is_folder) for name, is_folder in _walk(entry, above))
        elif entry.is_file() or entry.is_symlink():
            yield (entry.name,), False


def _read_file(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(min(MAX_BYTES + 1, os.fstat(file.fileno()).st_size))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _read_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(member) as file:
            return bytes(read_at_most(file, MAX_BYTES + 1))
    except Exception as error:  # damaged, encrypted, or packed in an unknown way
        raise DataError(f"{path}/{member.filename}: cannot be unpacked: {error}; pack {path.name} again") from error
