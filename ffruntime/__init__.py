"""ffruntime: a Forward-Forward network on the device. `from ffruntime import Model`.

Importing the package imports neither numpy nor an engine: its names are looked up when they are first asked for.
"""

from __future__ import annotations

from .core import __version__ as __version__

TYPE_CHECKING = False  # as `typing` has it, which would take most of the time until `start` minds Ctrl-C
if TYPE_CHECKING:
    from typing import Any

    from .model import Answer, Model
    from .session import Session

__all__ = ["Answer", "Model", "Session"]

_MODULES = {"Answer": "model", "Model": "model", "Session": "session"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'ffruntime' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
