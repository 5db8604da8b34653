"""A bundle to try things in: what is not proven there never reaches the real one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from ffruntime.core import transition as bundle
from ffruntime.core.errors import StorageError


@contextmanager
def scratch_copy(path: Path, manifest: bundle.Manifest, names: Iterable[str]) -> Iterator[Path]:
    """A bundle of those files alone, their hashes checked, elsewhere, for as long as the block runs.

    Raises `StorageError` where it cannot be made, or where there is no room for what the block writes to it.
    """
    try:
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "model.ff"
            kept = {name: manifest.files[name] for name in names}
            for name in kept:
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundle.verified(path, manifest, name), copy / name)
            bundle.write(copy, msgspec.structs.replace(manifest, files=kept), {})
            yield copy
    except OSError as error:
        raise StorageError(
            f"{tempfile.gettempdir()}: no scratch copy can be made there: {error.strerror}"
        ) from error
