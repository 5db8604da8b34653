"""The model that comes with the runtime: a small network of handwritten digits, to begin with.

It lies inside the package, which may be read-only and is everybody's: what is learned on it lies in the working
directory.
"""

from __future__ import annotations

from pathlib import Path

MODEL = Path(__file__).parents[1] / "models" / "mnist.ff"


def is_shipped(bundle: Path) -> bool:
    """Whether the bundle at that path is the one that comes with the runtime."""
    return bundle.name == MODEL.name and bundle.resolve() == MODEL.resolve()
