"""Every reader, on inputs that were changed at random, hashes recomputed: they are taken, or refused in one line.

`FF_FUZZ=100000 pytest tests/ffruntime/test_fuzz.py` makes so many of each kind instead of a hundred;
`benchmarks/attack.py` watches processes that do it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzzing import readers, try_reader

from ffruntime.core.errors import BundleError
from ffruntime.core.manifest import MANIFEST, decode_manifest

SLOW = ("golden vectors", "exemplars", "weights", "class statistics", "graphs", "databases")


@pytest.mark.parametrize("name", readers(training=False, slow=SLOW))
def test_what_is_changed_is_taken_or_refused_in_one_line(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    try_reader(name, tmp_path, capfd)


def test_what_is_refused_stays_a_bundle_error(exported: Path) -> None:
    """Not every line that ends a command will do: a manifest's is the bundle's, with exit code 3."""
    with pytest.raises(BundleError):
        decode_manifest(exported / MANIFEST, b"{}")
