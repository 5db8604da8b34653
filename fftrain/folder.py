"""A user's own pictures: a folder or a .zip of PATH/<class>/….png, or of PATH/{train,test,val}/<class>/….png."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TypeAlias

import numpy as np
from msgspec import Struct
from rich.console import Console
from rich.progress import track

from ffruntime import picture
from ffruntime.core.data import Examples
from ffruntime.core.errors import DataError, ImageError
from ffruntime.core.manifest import Photo
from ffruntime.core.reading import open_regular, read_at_most
from ffruntime.picture import MAX_BYTES, SUFFIXES

from .sets import choose_classes

PARTS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}  # by the folder's name
SHARE = 0.1  # of the training pictures, for each part that the tree does not have
FEWEST = 3  # training pictures of a class
LARGEST = 64  # pixels a side, where no size is asked for
SIZED = 1_000  # pictures whose size is looked at to choose one
MANY = 2_000  # pictures, from which on a bar is shown

Name: TypeAlias = tuple[str, ...]  # a file's path below the root, part by part
Reader: TypeAlias = Callable[[Name], bytes]
Labelled: TypeAlias = list[tuple[Name, int]]  # pictures, each with its label


class Tree(Struct, frozen=True):
    """The pictures of a tree: part -> class -> names. All are in `train` where the tree has no parts."""

    parts: dict[str, dict[str, list[Name]]]
    skipped: int  # files that are no pictures, or in no class

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the folders that are trained on, 2 before 10."""
        return tuple(sorted(self.parts.get("train", {}), key=_natural))


class Folder(Struct, frozen=True):
    """The pictures as images for training, validation and testing, and what is to be said of them."""

    parts: tuple[Examples, Examples, Examples]
    classes: tuple[str, ...]
    source: str
    skipped: int


def _natural(name: str) -> tuple[tuple[str | int, ...], str]:
    parts = re.split(r"(\d{1,18})", name)
    return tuple(int(part) if index % 2 else part.casefold() for index, part in enumerate(parts)), name


def arrange(names: Sequence[Name]) -> Tree:
    """Which of these files are pictures of what. Folders around all of them (`pets/train/…`) do not matter."""
    pictures = [name for name in names if name[-1].lower().endswith(SUFFIXES)]
    depth = 0
    while len({name[depth] for name in pictures}) == 1 and all(len(name) > depth + 2 for name in pictures):
        if pictures[0][depth].casefold() in PARTS:
            break
        depth += 1
    below = [name[depth:] for name in pictures]
    has_parts = any(len(name) > 2 and name[0].casefold() == "train" for name in below)  # not a class of vehicles
    level = 1 if has_parts else 0  # of the class
    parts: dict[str, dict[str, list[Name]]] = {}
    used = 0
    for name, rest in zip(pictures, below, strict=True):
        part = PARTS.get(rest[0].casefold()) if has_parts else "train"
        if part and len(rest) > level + 1:
            parts.setdefault(part, {}).setdefault(rest[level], []).append(name)
            used += 1
    return Tree(parts, len(names) - used)


def check(tree: Tree, path: Path) -> None:
    """Raise `DataError` where there is nothing in the tree to learn from."""
    if len(tree.classes) < 2:
        found = f"pictures of one class only ('{tree.classes[0]}')" if tree.classes else "no pictures of any class"
        raise DataError(f"{path}: {found}; expected two or more folders of pictures, {path}/CLASS/NAME.png")
    for part, classes in tree.parts.items():
        for name in classes:
            if name not in tree.classes:
                raise DataError(f"{path}: class '{name}' is in {part}, and not in train; move it, or rename it")
            if not name.isprintable():
                raise DataError(f"{path}: the class {name!r} has a name that cannot be printed; rename the folder")


def split(tree: Tree, classes: Sequence[str], path: Path, seed: int) -> tuple[Labelled, Labelled, Labelled]:
    """Pictures for training, validation and testing; label i is class i.

    A part that the tree does not have takes a tenth, at least one, of each class's training pictures: the same ones
    for the same files in that class, whatever the other classes are. Raises `DataError` where there are too few.
    """
    pictures: dict[str, Labelled] = {"train": [], "validation": [], "test": []}
    for label, name in enumerate(classes):
        training = tree.parts["train"][name]
        if len(training) < FEWEST:
            count = f"{len(training)} picture{'s' * (len(training) > 1)}"
            raise DataError(f"{path}: class '{name}' has {count} to train on; it takes {FEWEST} or more")
        order = np.random.default_rng(seed).permutation(len(training)).tolist()
        share = max(1, round(SHARE * len(training)))
        for part in ("test", "validation"):
            if part not in tree.parts:
                taken, order = [training[index] for index in order[:share]], order[share:]
            elif not (taken := tree.parts[part].get(name, [])):
                raise DataError(f"{path}: no picture of class '{name}' in {part}")
            pictures[part] += [(file, label) for file in taken]
        pictures["train"] += [(training[index], label) for index in sorted(order)]
    mixed = [[part[i] for i in np.random.default_rng(seed).permutation(len(part))] for part in pictures.values()]
    return mixed[0], mixed[1], mixed[2]


def choose_size(pictures: Labelled, read: Reader, path: Path) -> int:
    """The median of the pictures' shorter sides, at most `LARGEST`: pixels."""
    some = pictures[:: -(-len(pictures) // SIZED)]
    with _refusing():
        sides = [picture.shorter_side(read(file), _display(path, file)) for file, _ in some]
    return min(LARGEST, int(median(sides)))


def read_pictures(pictures: Labelled, read: Reader, path: Path, size: int, channels: int | None = None) -> Examples:
    """The pictures as `ffruntime classify` prepares them: uint8 (N, C, size, size) and labels (N,).

    C is `channels`; by default 1 where all of them are grey, else 3. Raises `DataError` naming the file.
    """
    pixels = np.empty((len(pictures), channels or 3, size, size), np.uint8)
    bar = track(
        pictures,
        "reading pictures",
        console=Console(stderr=True),
        transient=True,
        disable=len(pictures) < MANY,
    )
    with _refusing():
        for image, (file, _) in zip(pixels, bar, strict=True):
            name = _display(path, file)
            image[:] = picture.prepare(picture.decode_picture(read(file), name), name, Photo(), image.shape)
    if channels is None and (pixels == pixels[:, :1]).all():
        pixels = np.ascontiguousarray(pixels[:, :1])
    return Examples(pixels, np.array([label for _, label in pictures], np.int64))


def read_folder(
    path: Path,
    seed: int,
    classes: str | Sequence[str] | None = None,
    size: int | None = None,
    channels: int | None = None,
) -> Folder:
    """The pictures at `path` in three parts that share none, all `size` pixels a side. Raises `DataError`."""
    with open_tree(path) as (names, read):
        tree = arrange(names)
        check(tree, path)
        chosen = tuple(tree.classes[index] for index in choose_classes(classes, tree.classes))
        parts = split(tree, chosen, path, seed)
        everything = [*parts[0], *parts[1], *parts[2]]
        side = size or choose_size(everything, read, path)
        images = read_pictures(everything, read, path, side, channels)
    ends = np.cumsum([len(part) for part in parts])
    train, validation, test = (
        images.take(slice(end - len(part), end)) for part, end in zip(parts, ends, strict=True)
    )
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
    return Folder((train, validation, test), chosen, source, tree.skipped)


def _display(path: Path, name: Name) -> str:
    return str(path.joinpath(*name))


@contextmanager
def _refusing() -> Iterator[None]:
    """A picture that cannot be used on a device cannot be trained on."""
    try:
        yield
    except ImageError as error:
        raise DataError(f"{error}; replace that picture, or take it away") from error


# Files in a folder or in a .zip, alike. Nothing is extracted.


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
