"""Optimizers on the device: a few lines of numpy, in place.

Parameters, gradients and state are dictionaries of float32 arrays under the same names; state begins as zeros
(`zeros_like`). An array is updated block by block through views of it, so that whatever its size, temporaries are
at most two blocks, 128 kB together: there is no second copy of parameters or moments. Parameters and state have to
be C-contiguous and writable. The formulas are those of torch.optim, to the order of operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import numpy as np

Arrays: TypeAlias = Mapping[str, np.ndarray]

BLOCK = 1 << 14  # elements updated at once: 64 kB of float32, which stay in a core's cache


def zeros_like(parameters: Arrays) -> dict[str, np.ndarray]:
    """Fresh state: a zero for every parameter."""
    return {name: np.zeros_like(array) for name, array in parameters.items()}


def sgd(
    parameters: Arrays,
    gradients: Arrays,
    momenta: Arrays,
    *,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> None:
    """One step of gradient descent with momentum (Polyak), in place in `parameters` and `momenta`.

    m ← momentum · m + g + weight_decay · w, then w ← w − lr · m. Raises `ValueError` naming an array that cannot be
    updated in place.
    """
    for name, gradient in gradients.items():
        for w, g, m in _blocks(name, gradient, parameters, momenta):
            m *= momentum
            m += g
            if weight_decay:
                m += weight_decay * w
            w -= lr * m


def adam(
    parameters: Arrays,
    gradients: Arrays,
    first: Arrays,
    second: Arrays,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> None:
    """Step number `step`, from 1, of Adam (Kingma, Ba 2015, algorithm 1), in place in all but the gradients.

    m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g², then w ← w − lr · m̂ / (√v̂ + eps), where m̂ = m / (1 − β₁ᵗ) and
    v̂ = v / (1 − β₂ᵗ). Raises `ValueError` naming an array that cannot be updated in place.
    """
    rate, root = lr / (1 - betas[0] ** step), (1 - betas[1] ** step) ** 0.5
    for name, gradient in gradients.items():
        for w, g, m, v in _blocks(name, gradient, parameters, first, second):
            change = g - m
            change *= 1 - betas[0]
            m += change
            np.multiply(g, g, out=change)
            change *= 1 - betas[1]
            v *= betas[1]
            v += change
            np.sqrt(v, out=change)
            change /= root
            change += eps
            np.divide(m, change, out=change)
            change *= rate
            w -= change


def _blocks(name: str, gradient: np.ndarray, parameters: Arrays, *state: Arrays) -> Iterator[list[np.ndarray]]:
    """Views of the parameter `name`, of its gradient and of its state, block by block."""
    changed = [arrays[name] for arrays in (parameters, *state)]
    for array in changed:
        if not (array.flags.c_contiguous and array.flags.writeable and array.shape == gradient.shape):
            raise ValueError(f"{name}: not a writable, C-contiguous array of shape {gradient.shape}")
    flat = [changed[0].reshape(-1), gradient.reshape(-1), *(array.reshape(-1) for array in changed[1:])]
    for start in range(0, gradient.size, BLOCK):
        yield [array[start : start + BLOCK] for array in flat]
