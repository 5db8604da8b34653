"""ffruntime: a Forward-Forward network on the device. `from ffruntime import Model`."""

from typing import TYPE_CHECKING, Any

from .core import __version__ as __version__

if TYPE_CHECKING:
    from .model import Answer, Model

__all__ = ["Answer", "Model"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'ffruntime' has no attribute '{name}'")
    from . import model  # numpy and the engine are imported only by who uses them

    return getattr(model, name)
