"""A network of class goodness in numpy: sweep by sweep, (N, H, W, C), a vector as (N, 1, 1, C).

Operations take floats and integers alike; `observe` shows what every sweep of the first units receives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from ffruntime.core.architecture import Conv, Linear, MaxPool, Network

from .sweeps import Sweep, sweeps

EPS, EPS_DIVISIVE = 1e-5, 1e-8  # of src/ffedge.c

Arrays: TypeAlias = Mapping[str, np.ndarray]  # by name
Place: TypeAlias = tuple[int, int]  # of a sweep: unit and number in it
RAW = -1  # in place of a number: of what a unit receives before each image's own statistics normalise it


def observe(
    network: Network, weights: Arrays, pixels: np.ndarray, count: int, see: Callable[[Place, np.ndarray], None]
) -> None:
    """Show `see` what each sweep of the first `count` units receives of images uint8 (N, C, H, W), and as its place
    (count, 0) what the unit above them does."""
    x = standardised(network, pixels)
    for index in range(count):
        x = forward_unit(network, weights, index, x, see)
    see((count, 0), folded(network, weights, count, x))


def standardised(network: Network, pixels: np.ndarray) -> np.ndarray:
    """Images uint8 (N, C, H, W) as the first unit's input has them, (N, H, W, C)."""
    return (pixels.transpose(0, 2, 3, 1).astype(np.float32) / 255 - network.image.mean) / network.image.std


def forward_unit(
    network: Network,
    weights: Arrays,
    index: int,
    x: np.ndarray,
    see: Callable[[Place, np.ndarray], object] = lambda *_: None,
) -> np.ndarray:
    """A unit in float32, (N, H, W, C) -> (N, H, W, C); `see` is shown what each of its sweeps receives."""
    given = x = folded(network, weights, index, x)
    if moving(network, index):
        see((index, RAW), x)
        given = x = divided(network, index, x)
    chain = sweeps(network, index)
    for place, sweep in enumerate(chain):
        see((index, place), x)
        added = given if network.units[index].shortcut and sweep is chain[-1] else None
        x = forward(sweep, weights, x, added)
    return x


def folded(network: Network, weights: Arrays, index: int, x: np.ndarray) -> np.ndarray:
    """What a unit receives, (N, H, W, C), normalised where that is by frozen statistics; above the last unit as it
    is."""
    mean, root = statistics(network, weights, index)
    result: np.ndarray = ((x - mean) / root).astype(np.float32)
    return result


def statistics(network: Network, weights: Arrays, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Frozen mean and root of a unit's inputs, float64 (C,), or 0 and 1, (1,)."""
    if index == len(network.units) or network.units[index].inputs[0].normalise != "batch":
        return np.zeros(1), np.ones(1)
    mean, variance = (weights[f"unit{index + 1}.below.{name}"].astype(np.float64) for name in ("mean", "var"))
    return mean, np.sqrt(variance + EPS)


def moving(network: Network, index: int) -> bool:
    """Whether each image's own statistics normalise what a unit receives."""
    return network.units[index].inputs[0].normalise not in ("none", "batch")


def divided(network: Network, index: int, x: np.ndarray) -> np.ndarray:
    """What a unit receives, (N, H, W, C), normalised by each image's own statistics."""
    given, (n, h, w, c) = network.units[index].inputs[0], x.shape
    groups = {"group": given.groups, "instance": c}.get(given.normalise, 1)
    parts = x.reshape(n, h * w, groups, c // groups)
    if given.normalise != "divisive":
        parts = parts - parts.mean((1, 3), keepdims=True)
    eps = EPS_DIVISIVE if given.normalise == "divisive" else EPS
    result: np.ndarray = parts / np.sqrt((parts**2).mean((1, 3), keepdims=True) + eps)
    return result.reshape(x.shape)


def forward(sweep: Sweep, weights: Arrays, x: np.ndarray, added: np.ndarray | None) -> np.ndarray:
    """A sweep in float32: (N, H, W, C) -> (N, H, W, C), a vector as (N, 1, 1, C)."""
    y = pooled(
        sweep, operated(sweep, ordered(sweep, weights[f"{sweep.name}.weight"]) if sweep.op else None, x), means=True
    )
    if sweep.op and sweep.op.bias:
        y = y + weights[f"{sweep.name}.bias"]
    if added is not None:
        y = y + added
    result: np.ndarray = y if sweep.slope is None else np.where(y > 0, y, sweep.slope * y)
    return result


def ordered(sweep: Sweep, weight: np.ndarray) -> np.ndarray:
    """A weight with the channels below last: (C, k, k, C below) or (C, features)."""
    if isinstance(sweep.op, Conv):
        return weight.transpose(0, 2, 3, 1)
    c, h, w = (*sweep.before, 1, 1)[:3]
    return weight.reshape(-1, c, h, w).transpose(0, 2, 3, 1).reshape(len(weight), -1)


def operated(sweep: Sweep, weight: np.ndarray | None, x: np.ndarray) -> np.ndarray:
    """A sweep's operation without its bias, for floats or integers: (N, H, W, C)."""
    op = sweep.op
    if isinstance(op, Linear):
        assert weight is not None
        return (x.reshape(len(x), -1) @ weight.T)[:, None, None]
    if not isinstance(op, Conv):
        return x
    assert weight is not None
    padded = np.pad(x, ((0, 0), (op.padding,) * 2, (op.padding,) * 2, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (op.kernel, op.kernel), axis=(1, 2))
    windows = windows[:, :: op.stride, :: op.stride]  # (N, H, W, C, k, k)
    result: np.ndarray = np.tensordot(windows, weight, ((3, 4, 5), (3, 1, 2)))
    return result


def pooled(sweep: Sweep, x: np.ndarray, means: bool) -> np.ndarray:
    """A sweep's pooling; `means` False: sums in place of averages."""
    if sweep.pool is None:
        return x
    size, (n, h, w, c) = sweep.pool.size, x.shape
    cut = x[:, : h // size * size, : w // size * size].reshape(n, h // size, size, w // size, size, c)
    if isinstance(sweep.pool, MaxPool):
        return cut.max((2, 4))
    result: np.ndarray = cut.mean((2, 4)) if means else cut.sum((2, 4))
    return result
