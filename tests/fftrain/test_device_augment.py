"""Images changed on the device, against those of training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ffruntime.learning.draws import _moved
from fftrain.dataset import Dataset
from fftrain.epoch import shift_images, turn_images


@pytest.mark.parametrize("offset", [(0, 0), (2, -3), (-4, 4)])
def test_images_are_moved_as_in_training(offset: tuple[int, int], dataset: Dataset) -> None:
    pixels = dataset.train.pixels[:20]
    moved = [_moved(image.numpy(), np.array(offset), 0.0, 1.0) for image in pixels]
    expected = shift_images(pixels, torch.tensor([offset] * 20))
    np.testing.assert_array_equal(np.stack(moved), expected.numpy())


@pytest.mark.parametrize(("degrees", "factor"), [(0, 1.0), (10, 1.0), (-10, 1.0), (90, 1.0), (0, 0.8), (7, 1.2)])
def test_images_are_turned_and_enlarged_as_in_training(degrees: float, factor: float, dataset: Dataset) -> None:
    """To a grey level, but for figures that touch the edge, which fades into black a little differently."""
    pixels, angle = dataset.train.pixels[:50], math.radians(degrees)
    pixels = pixels[pixels[:, :, 2:-2, 2:-2].sum((1, 2, 3)) == pixels.sum((1, 2, 3))]
    count = len(pixels)
    assert count > 20
    turned = np.stack([_moved(image.numpy(), np.zeros(2, int), angle, factor) for image in pixels])
    expected = turn_images(pixels, torch.full((count,), angle), torch.full((count,), factor)).numpy()
    assert np.abs(turned.astype(int) - expected).max() <= 1  # of 255
