"""A hundred real images of MNIST, in one picture: what tests need where no data set is at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

PICTURE = Path(__file__).parents[1] / "fixtures" / "digits.png"  # 5 rows of 20, the first of the validation images


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """uint8 (100, 28, 28), and which digit each of them shows, (100,)."""
    with Image.open(PICTURE) as picture:
        pixels, labels = np.asarray(picture), picture.info["labels"]
    images = pixels.reshape(5, 28, 20, 28).swapaxes(1, 2).reshape(100, 28, 28)
    return images, np.array(list(map(int, labels)))
