"""LeCun's format, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from ffruntime.core.data import read_idx
from ffruntime.core.errors import DataError

ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
FILE = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in ARRAY.shape) + ARRAY.tobytes()


@pytest.mark.parametrize("packed", [False, True])
def test_reads_what_is_there(tmp_path: Path, packed: bool) -> None:
    (tmp_path / f"some{'.gz' if packed else ''}").write_bytes(gzip.compress(FILE) if packed else FILE)
    assert np.array_equal(read_idx(tmp_path / "some"), ARRAY)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not in LeCun's format"),
        (b"\0\0\x0d" + FILE[3:], "not in LeCun's format"),  # floats
        (FILE[:9], "header says"),
        (FILE[:-1], "not the 24 bytes"),
        (FILE + b"\0", "not the 24 bytes"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "header says"),  # would be 2⁹⁶ bytes
        (b"\0\0\x08\x03" + bytes(4) + b"\xff" * 8, "header says"),  # nothing, in a shape that overflows
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_refuses_what_is_damaged(tmp_path: Path, content: bytes, said: str, packed: bool) -> None:
    (tmp_path / f"some{'.gz' if packed else ''}").write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=said):
        read_idx(tmp_path / "some")


def test_refuses_a_damaged_archive_and_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"some: not there, nor some.gz"):
        read_idx(tmp_path / "some")
    (tmp_path / "some.gz").write_bytes(gzip.compress(FILE)[:-10])
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path / "some")
