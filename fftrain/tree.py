"""Which files of a folder are pictures of which class, for which part of the training, and which are not, and why.

By names alone; nothing is read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from msgspec import Struct

from ffruntime.core.errors import DataError, UsageError
from ffruntime.core.folders import UNCLEAR, class_name, is_left_behind, part_of
from ffruntime.pictures.picture_file import SUFFIXES

SHARE = 0.1  # of the training pictures, for each part that the tree does not have
FEWEST = 3  # training pictures of a class
MOST_CLASSES = 4096  # evaluation keeps a score of every class for a picture of every class, at least
NAMED = 20  # things that are named in a line before it says how many more there are
PARTS = ("train", "validation", "test")
ORDINARY = frozenset({*PARTS, "val"})  # names of parts that need no word
# Kinds of pictures that are not read here. A class of nothing else is not left out without being asked for.
FOREIGN = frozenset(
    {
        *(
            ".heic",
            ".heif",
            ".hif",
            ".avif",
            ".jxl",
            ".jp2",
            ".j2k",
            ".jpf",
            ".svg",
            ".psd",
            ".ico",
            ".tga",
            ".exr",
        ),
        *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".raw"),
    }
)

Name: TypeAlias = tuple[str, ...]  # a file's path below the root, part by part
Labelled: TypeAlias = list[tuple[Name, int]]  # pictures, each with its label
Parts: TypeAlias = Mapping[str, str]  # folders, each with the part that it is


class Tree(Struct, frozen=True):
    """The pictures of a tree: part -> class -> names. All are in `train` where the tree has no parts."""

    parts: dict[str, dict[str, list[Name]]]
    classes: tuple[str, ...]  # that are trained on, 2 before 10
    unread: dict[str, str] = {}  # classes that have pictures, but none of a kind that is read here: what they have
    left_out: tuple[str, ...] = ()  # files that are not used: how many, where and why
    notes: tuple[str, ...] = ()  # what somebody may not have meant


def _natural(name: str) -> tuple[tuple[str | int, ...], str]:
    parts = re.split(r"(\d{1,18})", name)
    return tuple(int(part) if index % 2 else part.casefold() for index, part in enumerate(parts)), name


def parse_parts(text: str) -> dict[str, str]:
    """`train=Training,test=eval` -> folder -> part; `none` -> no folder is one. Raises `UsageError`."""
    found: dict[str, str] = {}
    for one in text.split(",") if text.strip() != "none" else ():
        part, sign, folder = map(str.strip, one.partition("="))
        if part not in PARTS or not sign or not folder:
            raise UsageError(f"--split {text}: expected none, or folders such as train=Training,test=Testing")
        found[folder] = part
    return found


def arrange(
    names: Sequence[Name], empty: Sequence[Name] = (), asked: Collection[str] = (), split: Parts | None = None
) -> Tree:
    """Which of these files are pictures of what. Folders around all of them (`pets/train/…`) do not matter.

    `empty`: folders without files; `asked`: names that are classes, whatever they look like; `split`: which folders
    are which parts, by default as their names say. Raises `DataError` where names leave that open.
    """
    why = _Reasons()
    files = [name for name in names if not why.left_behind(name, asked)]
    pictures = [name for name in files if name[-1].lower().endswith(SUFFIXES)]
    around = _around(pictures, split)
    inside = [name[len(around) :] for name in files if name[: len(around)] == around]
    part_of_folder = _parts(inside, split)
    parts: dict[str, dict[str, list[Name]]] = {}
    others: dict[str, Counter[str]] = {}  # class -> suffixes of files that are no pictures
    written: dict[str, dict[str, None]] = {}  # class -> the folders' names
    levels = {folder: _level(inside, folder) for folder in part_of_folder}
    has_parts = "train" in part_of_folder.values()
    for name in files:
        rest = name[len(around) :] if name[: len(around)] == around else ()
        part = part_of_folder.get(rest[0]) if len(rest) > 1 else None
        level = levels[rest[0]] if part else 0
        suffix = Path(name[-1]).suffix.lower()
        if len(rest) > 1 and has_parts and not part:
            why.add(f"in {rest[0]} (neither for training, nor for validation or testing; --split says what it is)")
        elif len(rest) < level + 2:
            why.add("in no class")
        else:
            label = class_name(rest[level])
            if not suffix or not name[-1].lower().endswith(SUFFIXES):
                others.setdefault(label, Counter())[suffix or "without a suffix"] += 1
                continue
            parts.setdefault(part or "train", {}).setdefault(label, []).append(name)
            written.setdefault(label, {})[rest[level]] = None
    if not part_of_folder:
        parts = _inside_classes(parts, len(around), why)
    known = set().union(*parts.values()) if parts else set()
    for label, suffixes in sorted(others.items()):
        for suffix, count in sorted(suffixes.items()):
            kind = "a kind of picture that is not read here" if suffix in FOREIGN else "no pictures"
            why.add(f"{suffix} in {label} ({kind})" if suffix in FOREIGN else f"{suffix} ({kind})", count)
    unread = {
        label: ", ".join(f"{count} {suffix}" for suffix, count in sorted(suffixes.items()) if suffix in FOREIGN)
        for label, suffixes in sorted(others.items())
        if label not in known and suffixes.keys() & FOREIGN
    }
    bare = [class_name(name[-1]) for name in empty if len(name) == len(around) + 1 and name[:-1] == around]
    classes = tuple(sorted(parts.get("train", {}), key=_natural))
    return Tree(parts, classes, unread, why.lines(), tuple(_notes(classes, written, bare, known, part_of_folder)))


class _Reasons:
    """Why files are left out, and how many for each reason."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, reason: str, count: int = 1) -> None:
        self._counts[reason] += count

    def left_behind(self, name: Name, asked: Collection[str]) -> bool:
        """Whether a file lies in a folder that is no class, most likely."""
        for folder in name[:-1]:
            if is_left_behind(folder) and folder not in asked:
                self.add(f"in {folder} (looks like no class; --classes takes it)")
                return True
        return False

    def lines(self) -> tuple[str, ...]:
        return tuple(f"{count:,} {reason}" for reason, count in sorted(self._counts.items()))


def _around(pictures: Sequence[Name], split: Parts | None) -> Name:
    """The folders that all pictures of classes lie in, one in the other, and that are no part themselves."""
    depth, inside = 0, pictures
    while True:
        deeper = [name for name in inside if len(name) > depth + 1]  # a cover beside the folders does not matter
        if not deeper or len({name[depth] for name in deeper}) > 1:
            return deeper[0][:depth] if deeper else ()
        folder = deeper[0][depth]
        if folder in split if split is not None else part_of(folder) not in (None, UNCLEAR):
            return deeper[0][:depth]
        if any(len(name) == depth + 2 for name in deeper):
            return deeper[0][:depth]
        depth, inside = depth + 1, deeper


def _parts(inside: Iterable[Name], split: Parts | None) -> dict[str, str]:
    """Which folders are parts of the data set: all that are asked for, or those whose names say so and which have
    folders of pictures in them, not pictures: a class of trains is none. Raises `DataError` where that is open."""
    pictures = [name for name in inside if name[-1].lower().endswith(SUFFIXES)]
    folders = {name[0]: False for name in pictures if len(name) > 1}
    folders |= {name[0]: True for name in pictures if len(name) > 2}  # with folders in them
    if split is not None:
        if missing := sorted(split.keys() - folders.keys()):
            raise DataError(
                f"--split: there is no folder '{missing[0]}' of pictures, but {_named(sorted(folders))}"
            )
        return dict(split)
    alike = {folder: part for folder in sorted(folders) if (part := part_of(folder))}
    found = {folder: part for folder, part in alike.items() if folders[folder]}
    flat = [folder for folder in alike if not folders[folder]]
    how = "say it with --split train=FOLDER,validation=FOLDER,test=FOLDER, or --split none where they are classes"
    if len(flat) > 1 and "train" in {alike[folder] for folder in flat}:
        raise DataError(f"{_named(flat)} look like parts of a data set, but have no folders of classes; {how}")
    free = {"validation", "test"} - set(found.values())
    if UNCLEAR in found.values() and len(free) == 1:
        found = {folder: free.pop() if part == UNCLEAR and free else part for folder, part in found.items()}
    if not found:
        return {}
    twice = [part for part, count in Counter(found.values()).items() if count > 1 or part == UNCLEAR]
    if "train" not in found.values() or twice:
        raise DataError(
            f"folders that look like parts of a data set: {_named(sorted(found))}; which is which? {how}"
        )
    return found


def _level(inside: Sequence[Name], folder: str) -> int:
    """Where a part's classes are: right in it, or in a folder of the same name in it (`seg_train/seg_train`)."""
    mine = {name[1] for name in inside if name[0] == folder and len(name) > 2}
    deep = all(len(name) > 3 for name in inside if name[0] == folder and len(name) > 1)
    return 2 if deep and len(mine) == 1 and part_of(next(iter(mine))) == part_of(folder) else 1


def _inside_classes(
    parts: dict[str, dict[str, list[Name]]], depth: int, why: _Reasons
) -> dict[str, dict[str, list[Name]]]:
    """The same where every class has a folder to train on in it (`cat/train`, `cat/test`), by these."""
    classes = parts.get("train", {})

    def part(name: Name) -> str | None:
        return part_of(name[depth + 1]) if len(name) > depth + 2 else None

    if not classes or not all(any(part(name) == "train" for name in names) for names in classes.values()):
        return parts
    found: dict[str, dict[str, list[Name]]] = {}
    for label, names in classes.items():
        for name in names:
            if (which := part(name)) in PARTS:
                found.setdefault(str(which), {}).setdefault(label, []).append(name)
            else:
                why.add("in a class, but in none of its parts, such as train")
    return found


def _notes(
    classes: Sequence[str],
    written: Mapping[str, Collection[str]],
    bare: Sequence[str],
    known: Collection[str],
    part_of_folder: Parts,
) -> Iterable[str]:
    """What somebody may not have meant, a line each."""
    if part_of_folder.keys() - ORDINARY:
        yield "parts: " + ", ".join(f"{folder} for {part}" for folder, part in sorted(part_of_folder.items()))
    if some := sorted(label for label in bare if label not in known and label not in part_of_folder):
        yield f"folders without a file: {_named(some)}"
    if several := sorted(label for label, folders in written.items() if len(folders) > 1):
        yield f"of several folders, whose names are one in Unicode or but for blanks: {_named(several)}"
    lower: dict[str, list[str]] = {}
    for label in classes:
        lower.setdefault(label.casefold(), []).append(label)
    for alike in lower.values():
        if len(alike) > 1:
            yield f"classes that differ in capitals alone: {_named(alike)}"


def _named(things: Sequence[str]) -> str:
    more = f" and {len(things) - NAMED:,} more" if len(things) > NAMED else ""
    return ", ".join(f"'{thing}'" for thing in things[:NAMED]) + more


def check(tree: Tree, path: Path, chosen: bool = False) -> None:
    """Raise `DataError` where there is nothing in the tree to learn from. `chosen`: which classes was said."""
    if len(tree.classes) < 2:
        found = f"pictures of one class only ('{tree.classes[0]}')" if tree.classes else "no pictures of any class"
        left = f" (left out: {'; '.join(tree.left_out[:NAMED])})" if tree.left_out else ""
        raise DataError(f"{path}: {found}; expected two or more folders of pictures, {path}/CLASS/NAME.png{left}")
    known = frozenset(tree.classes)
    for part, classes in tree.parts.items():
        for name in classes:
            if name not in known:
                raise DataError(f"{path}: class '{name}' is in {part}, and not in train; move it, or rename it")
            if not name.isprintable():
                raise DataError(f"{path}: the class {name!r} has a name that cannot be printed; rename the folder")
    if tree.unread and not chosen:
        name, what = next(iter(tree.unread.items()))
        raise DataError(
            f"{path}: class '{name}' has no picture of a kind that is read here ({what}); convert them to PNG or "
            "JPEG, or say with --classes which classes to train on"
        )


def split(tree: Tree, classes: Sequence[str], path: Path, seed: int) -> tuple[Labelled, Labelled, Labelled]:
    """Pictures for training, validation and testing; label i is class i.

    A part that the tree does not have takes a tenth, at least one, of each class's training pictures: the same ones
    for the same files in that class, whatever the other classes are. Raises `DataError` where there are too few.
    """
    if len(classes) > MOST_CLASSES:
        raise DataError(
            f"{path}: {len(classes):,} classes; at most {MOST_CLASSES:,} are trained on, as memory grows with the "
            "square of their number; --classes chooses"
        )
    pictures: dict[str, Labelled] = {part: [] for part in PARTS}
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


def told(tree: Tree, parts: Sequence[Labelled], classes: Sequence[str]) -> Iterable[str]:
    """Lines for whoever trains: classes with counts, what was left out and why, what may not be meant."""
    counts = np.array([np.bincount([label for _, label in part], minlength=len(classes)) for part in parts])
    rows = [f"{name} {' / '.join(map(str, counts[:, label]))}" for label, name in enumerate(classes[:NAMED])]
    if len(classes) > NAMED:
        rest = counts[:, NAMED:].sum(0)
        rows.append(f"and {len(classes) - NAMED:,} more, of {rest.min():,} to {rest.max():,} pictures")
    yield f"classes, with pictures for training / validation / testing: {', '.join(rows)}"
    yield from tree.notes
    if more := [name for name in tree.classes if name not in set(classes)]:
        yield f"classes that were not asked for: {_named(more)}"
    if tree.left_out:
        rest = f"; and {len(tree.left_out) - NAMED:,} reasons more" if len(tree.left_out) > NAMED else ""
        yield f"left out: {'; '.join(tree.left_out[:NAMED])}{rest}"
