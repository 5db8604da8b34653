"""Inputs changed at random: bytes, JSON, tensors. What tests of readers and `attack.py` have in common."""

from __future__ import annotations

import random

import numpy as np

ODD = (
    None,
    True,
    -1,
    0,
    1,
    10**6,
    10**18,
    1e308,
    -0.5,
    "",
    "x",
    "\x1b[2J",
    "9" * 5000,
    [],
    {},
    [[]],
    {"kind": "x"},
)


def flipped(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, a part left out, doubled, or cut off."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(changed) or 1)
        kind = rng.randrange(4)
        if kind == 0:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del changed[at : at + rng.randint(1, 30)]
        elif kind == 2:
            changed[at:at] = changed[at : at + rng.randint(1, 30)]
        else:
            changed[at : at + 4] = rng.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"))
    return bytes(changed if rng.random() < 0.8 else changed[: rng.randrange(len(changed) + 1)])


def altered(value: object, rng: random.Random) -> object:
    """JSON with one field of another value, left out or added."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        rest = {name: part for name, part in value.items() if name != key}
        choice = rng.random()
        if choice < 0.05:
            return rest
        return {**rest, ("odd" if choice < 0.1 else key): altered(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        return [*value[:at], altered(value[at], rng), *value[at + 1 :]]
    return rng.choice(ODD)


def tensors_altered(tensors: dict[str, np.ndarray], rng: random.Random) -> dict[str, np.ndarray]:
    """One tensor of another type or shape, with other values, left out, or one more."""
    name = rng.choice(list(tensors))
    tensor, changed = tensors[name], dict(tensors)
    kind = rng.randrange(6)
    if kind == 0:
        with np.errstate(all="ignore"):
            changed[name] = tensor.astype(rng.choice(["float16", "float64", "int64", "uint8", "bool"]))
    elif kind == 1:
        changed[name] = np.ascontiguousarray(tensor.reshape(-1)[: rng.randrange(tensor.size + 1)])
    elif kind == 2 and tensor.size:
        odd = rng.choice([np.nan, np.inf, -1, 10**9]) if tensor.dtype.kind == "f" else rng.choice([0, 99, 127])
        changed[name] = tensor.copy()
        changed[name].reshape(-1)[rng.randrange(tensor.size)] = odd
    elif kind == 3:
        del changed[name]
    elif kind == 4:
        changed[f"{name}.odd"] = tensor.copy()
    else:
        changed[name] = tensor[None].copy()
    return changed
