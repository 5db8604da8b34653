"""What a training step works on."""

from __future__ import annotations

import torch
from msgspec import Struct
from torch import Tensor

from ffruntime.core.architecture import Network

from .operations import Tensors
from .optimizer import Optimizers
from .recipe import Recipe


class State(Struct):
    """A network in training. `tensors` are changed in place; `dtype` is what activations are computed in.

    `peers` are the running means of peer normalisation, by unit, changed likewise: state of the training alone.
    """

    recipe: Recipe
    network: Network
    tensors: Tensors
    optimizers: Optimizers
    peers: Tensors
    learning: frozenset[str]  # the parts that are updated now: units by name, and `head`
    device: torch.device
    dtype: torch.dtype


class Batch(Struct, frozen=True):
    """What one step sees: pixels uint8 (B, C, H, W), labels (B,), and random numbers in [0, 1): (B, M, 2).

    `hybrids` uint8 (B, M, C, H, W) are the negatives of images without labels.
    """

    pixels: Tensor
    labels: Tensor
    noise: Tensor
    hybrids: Tensor | None = None
