"""The device's optimizers: in place, in blocks. (Against PyTorch's: `fftrain/test_device_optimizer.py`.)"""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from ffruntime.learning.step import BLOCK, adam, sgd, zeros_like

SHAPES = {"small": (3,), "exact": (BLOCK,), "blocks": (5, BLOCK // 2 + 1)}


def some(seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Arrays of every shape; the gradients of some steps are tiny, as Adam's ε shows there."""
    generator = np.random.default_rng(seed)
    return {n: scale * generator.standard_normal(s, dtype=np.float32) for n, s in SHAPES.items()}


def test_gradients_stay_as_they_are_and_absent_ones_change_nothing() -> None:
    parameters, gradients = some(0), {"small": np.ones(3, np.float32)}
    first, second = zeros_like(parameters), zeros_like(parameters)
    adam(parameters, gradients, first, second, step=1, lr=1e-2)
    sgd(parameters, gradients, first, lr=0.1, weight_decay=0.1)
    assert (gradients["small"] == 1).all()
    for name in ("exact", "blocks"):
        assert np.array_equal(parameters[name], some(0)[name])
        assert not first[name].any()


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_temporaries_do_not_grow_with_the_parameters(optimizer: str) -> None:
    """4 MiB of parameters, and less than three blocks beside them."""
    parameters, gradients = ({"w": np.ones((1024, 1024), np.float32)} for _ in range(2))
    state = [zeros_like(parameters) for _ in range(2)]
    tracemalloc.start()
    if optimizer == "adam":
        adam(parameters, gradients, *state, step=1, lr=1e-3)
    else:
        sgd(parameters, gradients, state[0], lr=1e-3, weight_decay=1e-3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * BLOCK * 4


@pytest.mark.parametrize("spoiled", [np.ones((4, 4), np.float32).T[:2], np.ones((2, 4), np.float32)[:, ::2]])
def test_what_cannot_be_updated_in_place_is_refused(spoiled: np.ndarray) -> None:
    """Nothing is changed in a copy that nobody sees."""
    gradients, zeros = ({"w": np.zeros(spoiled.shape, np.float32)} for _ in range(2))
    with pytest.raises(ValueError, match="w: not a writable, C-contiguous array"):
        sgd({"w": spoiled}, gradients, zeros, lr=0.1)
    frozen = np.ones(spoiled.shape, np.float32)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="w: not a writable"):
        sgd({"w": frozen}, gradients, zeros, lr=0.1)
