"""The device's optimizers, against PyTorch's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ffruntime.learning.step import BLOCK, adam, sgd, zeros_like

SHAPES = {"small": (3,), "exact": (BLOCK,), "blocks": (5, BLOCK // 2 + 1)}


def some(seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Arrays of every shape; the gradients of some steps are tiny, as Adam's ε shows there."""
    generator = np.random.default_rng(seed)
    return {n: scale * generator.standard_normal(s, dtype=np.float32) for n, s in SHAPES.items()}


def torchs(make: Callable[[list[torch.Tensor]], torch.optim.Optimizer], steps: int) -> dict[str, np.ndarray]:
    tensors = {name: torch.from_numpy(array) for name, array in some(0).items()}
    optimizer = make(list(tensors.values()))
    for step in range(steps):
        for name, gradient in some(step + 1, 10.0 ** -(step % 9)).items():
            tensors[name].grad = torch.from_numpy(gradient)
        optimizer.step()
    return {name: tensor.numpy() for name, tensor in tensors.items()}


@pytest.mark.parametrize(("momentum", "decay"), [(0.9, 0.0), (0.0, 0.0), (0.5, 1e-2)])
def test_sgd_is_torchs(momentum: float, decay: float) -> None:
    parameters = some(0)
    momenta = zeros_like(parameters)
    for step in range(20):
        gradients = some(step + 1, 10.0 ** -(step % 9))
        sgd(parameters, gradients, momenta, lr=0.1, momentum=momentum, weight_decay=decay)
    expected = torchs(lambda own: torch.optim.SGD(own, lr=0.1, momentum=momentum, weight_decay=decay), 20)
    for name, array in parameters.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6)


def test_adam_is_torchs() -> None:
    parameters = some(0)
    first, second = zeros_like(parameters), zeros_like(parameters)
    for step in range(20):
        adam(parameters, some(step + 1, 10.0 ** -(step % 9)), first, second, step=step + 1, lr=1e-2)
    expected = torchs(lambda own: torch.optim.Adam(own, lr=1e-2), 20)
    for name, array in parameters.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6)
