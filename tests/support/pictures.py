"""Pictures that the tests draw themselves: six symbols, and one that the fixture network was never shown.

Drawn with numpy alone, four times as large and then averaged: the same seed gives the same bytes everywhere.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("bar", "corner", "cross", "dots", "ring", "triangle")
NEW = "square"  # what a device learns later
SIZE = 16  # pixels a side
FINE = 4  # parts of a pixel, each way


def draw(name: str, seed: int) -> np.ndarray:
    """One symbol, light on dark, uint8 (SIZE, SIZE): place, size, thickness and noise come from the seed."""
    random = np.random.default_rng([seed, (*CLASSES, NEW).index(name)])
    x0, y0 = SIZE / 2 + random.uniform(-0.8, 0.8, 2)
    radius, thick = random.uniform(5.0, 5.8), random.uniform(0.8, 1.1)
    y, x = (np.indices((FINE * SIZE, FINE * SIZE)) + 0.5) / FINE
    u, v = x - x0, y - y0  # to the right, and down
    inside = np.maximum(abs(u), abs(v)) < radius
    if name == "bar":
        shape = (abs(u) < thick) & (abs(v) < radius)
    elif name == "corner":
        shape = inside & ((u < 2 * thick - radius) | (v > radius - 2 * thick))
    elif name == "cross":
        shape = inside & (np.minimum(abs(u + v), abs(u - v)) < 1.4 * thick)
    elif name == "dots":
        far = 0.62 * radius
        shape = np.hypot(abs(u) - far, abs(v) - far) < 2 * thick
    elif name == "ring":
        shape = abs(np.hypot(u, v) - 0.8 * radius) < thick
    elif name == "triangle":
        shape = (abs(u) < (v + radius) / 2) & (v < radius)
    else:
        shape = inside & (np.maximum(abs(u), abs(v)) > radius - 2 * thick)
    covered = shape.reshape(SIZE, FINE, SIZE, FINE).mean((1, 3))
    light = random.uniform(190, 250) * covered + random.integers(0, 24, (SIZE, SIZE))
    return np.clip(light, 0, 255).astype(np.uint8)


def write_png(path: Path, name: str, seed: int) -> Path:
    """One symbol as a PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw(name, seed)).save(path)
    return path


def write_folder(folder: Path, counts: dict[str, int], classes: tuple[str, ...] = CLASSES) -> Path:
    """`folder`/PART/CLASS/NAME.png, as many of each class as `counts` has for a part; no two are alike."""
    for part, count in counts.items():
        start = {"train": 0, "val": 10_000, "test": 20_000}[part]
        for name in classes:
            for seed in range(start, start + count):
                write_png(folder / part / name / f"{seed:05}.png", name, seed)
    return folder
