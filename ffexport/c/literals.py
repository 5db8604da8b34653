"""Numbers and arrays as C."""

from __future__ import annotations

import numpy as np

ARRAY = "static const {kind} {name}[{count}] = {{\n{rows}\n}};\n"
KINDS = {
    "float32": "float",
    "float16": "uint16_t",
    "uint8": "uint8_t",
    "uint16": "uint16_t",
    "int8": "int8_t",
    "int32": "int32_t",
    "int64": "int32_t",
}


def number(value: float) -> str:
    """A float32 as a C literal that is read back as the same number."""
    text = f"{np.float32(value):.9g}"
    return f"{text}f" if any(mark in text for mark in ".e") else f"{text}.0f"


def array(name: str, values: np.ndarray, what: str) -> str:
    """A constant array of float32, of integers (int64 as int32), or of float16's bits, behind a comment."""
    kind = values.dtype.name
    if kind == "float32":
        texts = [number(value) for value in values.ravel().tolist()]
    elif kind == "float16":
        texts = [f"0x{bits:04x}" for bits in values.ravel().view(np.uint16).tolist()]
    else:
        texts = [str(value) for value in values.ravel().tolist()]
    per_line = 8 if kind in ("float32", "int32", "int64") else 20
    rows = ["    " + ", ".join(texts[at : at + per_line]) for at in range(0, len(texts), per_line)]
    return f"/* {what} */\n" + ARRAY.format(kind=KINDS[kind], name=name, count=len(texts), rows=",\n".join(rows))
