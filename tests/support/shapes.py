"""What the committed bundles hold: numbers that tests of `ffruntime` expect.

`tests/fixtures/shapes.ff`, and `classes.ff` with class goodness, are of the same pictures.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pictures import CLASSES, SIZE, draw

BUNDLE = Path(__file__).parents[1] / "fixtures" / "shapes.ff"
CLASS_BUNDLE = BUNDLE.with_name("classes.ff")
SHAPE = (1, SIZE, SIZE)  # of an image
BYTES = SIZE * SIZE
PATTERNS = 8  # labels that it has patterns for: two more than classes
EXEMPLARS = 120
SEEDS = 48  # of them, those that a state directory begins with: numbers 1 to 48
FIRST = SEEDS + 1  # number of the first example that is learned


def drawn(count: int, seed: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Pictures that it was not trained on, uint8 (count, 1, SIZE, SIZE), and what they are: the classes in turn."""
    labels = np.arange(count) % len(CLASSES)
    images = [draw(CLASSES[label], seed + index) for index, label in enumerate(labels)]
    return np.stack(images)[:, None], labels
