"""Where there is no heap to speak to, nothing happens."""

from __future__ import annotations

import ctypes

import pytest

from ffruntime.session import return_freed_blocks


@pytest.mark.parametrize("error", [TypeError, OSError, AttributeError])
def test_systems_without_that_setting(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no library None."""

    def no_library(_name: object) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    return_freed_blocks()
