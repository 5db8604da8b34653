"""Messages of protocol buffers, field by field (https://protobuf.dev/programming-guides/encoding)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

Fields: TypeAlias = dict[int, list[int | memoryview]]  # of a message, by their numbers


def fields(data: int | memoryview) -> Fields:
    """A message's fields by their numbers: integers, and views of what is strings, messages or packed numbers."""
    if isinstance(data, int):
        raise ValueError("not a graph")
    found: Fields = {}
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        value: int | memoryview
        if key & 7 == 0:
            value, at = _varint(data, at)
        elif key & 7 == 2:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
        elif key & 7 in (1, 5):
            size = 8 if key & 7 == 1 else 4
            value, at = data[at : at + size], at + size
        else:
            raise ValueError("not a graph")
        if at > end:
            raise ValueError("cut off")
        found.setdefault(key >> 3, []).append(value)
    return found


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value - (1 << 64) if value >> 63 else value, at  # int64 in two's complement
    raise ValueError("cut off")


def messages(fields: Fields, number: int) -> Iterator[memoryview]:
    for value in fields.get(number, ()):
        if isinstance(value, int):
            raise ValueError("not a graph")
        yield value


def string(data: memoryview) -> str:
    return bytes(data).decode()


def text(fields: Fields, number: int) -> str:
    return "".join(map(string, messages(fields, number)))


def number(fields: Fields, number: int) -> int:
    value = (fields.get(number) or [0])[-1]
    if not isinstance(value, int):
        raise ValueError("not a graph")
    return value


def numbers(fields: Fields, number: int) -> list[int]:
    """Repeated integers, packed or not."""
    found: list[int] = []
    for value in fields.get(number, ()):
        if isinstance(value, int):
            found.append(value)
            continue
        at = 0
        while at < len(value):
            one, at = _varint(value, at)
            found.append(one)
    return found
