"""LeCun's format of arrays of bytes, in which MNIST is given away (http://yann.lecun.com/exdb/mnist/)."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from .errors import DataError

MOST = 1 << 28  # bytes that a file may hold; MNIST's largest holds 47 million


def read_idx(file: Path) -> np.ndarray:
    """The array, uint8, in `file`, or in `file`.gz beside it; no more is read than the header says, up to `MOST`.

    Raises `DataError` where there is no such file, or one that is damaged.
    """
    packed = file.with_name(f"{file.name}.gz")
    path = file if file.exists() else packed
    try:
        with file.open("rb") if path is file else gzip.open(packed) as stream:
            magic = stream.read(4)
            if magic[:3] != b"\0\0\x08" or len(magic) < 4 or not 1 <= magic[3] <= 4:
                raise DataError(f"{path}: not in LeCun's format of bytes")
            header = stream.read(4 * magic[3])
            shape = [int.from_bytes(header[start : start + 4], "big") for start in range(0, len(header), 4)]
            count = math.prod(shape)
            if len(header) < 4 * magic[3] or count > MOST:
                raise DataError(f"{path}: damaged: its header says {' × '.join(map(str, shape))}")
            data = stream.read(count + 1)
    except FileNotFoundError as error:
        raise DataError(f"{file}: not there, nor {packed.name}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if len(data) != count:
        raise DataError(f"{path}: damaged: not the {count:,} bytes that its header says")
    return np.frombuffer(data, np.uint8).reshape(shape)
