"""Every reader, on inputs that were changed at random, hashes recomputed: they are taken, or refused in one line.

`FF_FUZZ=100000 pytest tests/ffruntime/test_fuzz.py` makes so many of each kind instead of a hundred;
`benchmarks/attack.py` watches processes that do it.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from attack_readers import READERS

from ffruntime.core.errors import BundleError, FFError
from ffruntime.core.manifest import MANIFEST, decode_manifest

TRIES = int(os.environ.get("FF_FUZZ", "100"))
SLOW = ("golden vectors", "exemplars", "weights", "class statistics", "graphs", "databases")
DEVICE = [
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
    for name, reader in READERS.items()
    if not reader.training
]


@pytest.mark.parametrize("name", DEVICE)
def test_what_is_changed_is_taken_or_refused_in_one_line(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    once = READERS[name].make(tmp_path)
    for number in range(TRIES):
        try:
            once(random.Random(f"0 {name} {number}"))
        except FFError as error:
            assert "\n" not in str(error)  # noqa: PT017
    assert capfd.readouterr().err == ""  # what Pillow, libtiff and numpy have to say is in the line


def test_what_is_refused_stays_a_bundle_error(exported: Path) -> None:
    """Not every line that ends a command will do: a manifest's is the bundle's, with exit code 3."""
    with pytest.raises(BundleError):
        decode_manifest(exported / MANIFEST, b"{}")
