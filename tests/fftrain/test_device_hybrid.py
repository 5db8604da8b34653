"""Masks of hybrid images on the device, against those of training."""

from __future__ import annotations

import numpy as np
import torch

from ffruntime.learning.draws import masks
from fftrain.epoch import masks as training_masks


def test_masks_are_those_of_training() -> None:
    """As likely one at every pixel, and neighbours alike as often."""
    for blur in (3, 10):
        here = masks(4000, 28, 28, blur, np.random.default_rng(0))
        there = training_masks(4000, 28, 28, blur, torch.Generator().manual_seed(0)).numpy()
        assert np.abs(here.mean(0) - 0.5).max() < 0.05
        alike = [float((mask[:, :, 1:] == mask[:, :, :-1]).mean()) for mask in (here, there)]
        assert abs(alike[0] - alike[1]) < 0.005
