"""Which classes of a data set are asked for, by name or by index."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ffruntime.core.errors import UsageError, unknown


def choose_classes(asked: str | Sequence[str] | None, names: Sequence[str]) -> tuple[int, ...]:
    """Indices into `names`: of a list as it is typed (`parse_classes`), of the names in `asked`, or (None) of all.

    Raises `UsageError` where a class does not exist, or only one is typed.
    """
    if asked is None:
        return tuple(range(len(names)))
    if isinstance(asked, str):
        return parse_classes(asked, names)
    return tuple(_index(name, names) for name in asked)


def parse_classes(text: str, names: Sequence[str]) -> tuple[int, ...]:
    """`0-8`, `1,3,5-7`, `cat,dog` -> indices, ascending. What is a name and an index too, is the name."""
    chosen: set[int] = set()
    for part in map(str.strip, text.split(",")):
        indices = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part, re.ASCII)
        if part in names or not indices:
            chosen.add(_index(part, names))
            continue
        first, last = int(indices[1]), int(indices[2] or indices[1])
        if not first <= last < len(names):
            raise UsageError(f"--classes {text}: there are {len(names)} classes, 0 to {len(names) - 1}, not {part}")
        chosen |= set(range(first, last + 1))
    if len(chosen) < 2:
        raise UsageError(f"--classes {text}: expected at least two classes, such as 0-8 or {names[0]},{names[1]}")
    return tuple(sorted(chosen))


def _index(name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise unknown("class in --classes:", name, names)
    return names.index(name)
