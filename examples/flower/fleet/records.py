"""State files as Flower's records: the bytes of the file, which vouch for themselves, as one array."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord

STATE = "state"


def to_record(file: Path | None) -> ArrayRecord:
    """The record of a file; without one an empty array, as Flower sends no record of nothing."""
    data = file.read_bytes() if file else b""
    return ArrayRecord({STATE: Array(np.frombuffer(data, np.uint8).copy())})


def to_file(record: ArrayRecord, file: Path) -> Path | None:
    """The file of a record; None where it is of none."""
    data = record[STATE].numpy()
    if not data.size:
        return None
    file.write_bytes(data.astype(np.uint8).tobytes())
    return file
