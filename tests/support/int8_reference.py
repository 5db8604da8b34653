"""Units in int8 in plain numpy integers, written from the description of `src/ffint8.h`: the referee of the C code.

Arrays are int64 (N, H, W, C); features are float32, one rounding after the other, as the C code has them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ffexport.c.forward import operated, pooled
from ffexport.c.int8 import PIXEL_ONE, SLOPE_ONE, Int8, Layer
from ffexport.c.sweeps import Sweep, sweeps
from ffruntime.core.architecture import Network

LARGEST = 127


def requantised(values: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """values · multiplier / 2^31 · 2^shift: after the product halves go up, after the shift away from 0."""
    product = values.astype(np.int64) * multiplier.astype(np.int64)
    high = (product + (1 << 30)) // (1 << 31)
    divisor = np.int64(1) << (-shift).astype(np.int64)
    found: np.ndarray = np.sign(high) * ((2 * np.abs(high) + divisor) // (2 * divisor))
    return found


def received(int8: Int8, pixels: np.ndarray) -> np.ndarray:
    """uint8 images (N, C, H, W) as the first unit receives them."""
    scaled = pixels.transpose(0, 2, 3, 1).astype(np.int64) * int8.pixel_multiplier + int8.pixel_offset
    return np.clip(scaled // PIXEL_ONE, -LARGEST, LARGEST)


def normalised(network: Network, int8: Int8, index: int, x: np.ndarray) -> np.ndarray:
    """What a unit receives, by each image's own statistics where `gain` says so: exact sums, then float32."""
    kind, unit, one = network.units[index].inputs[0], int8.units[index], np.float32
    if unit.gain == 0:
        return x
    n, h, w, c = x.shape
    groups = {"group": kind.groups, "instance": c}.get(kind.normalise, 1)
    parts = x.reshape(n, h * w, groups, c // groups)
    count = h * w * (c // groups)
    total = parts.sum((1, 3), keepdims=True) * (kind.normalise != "divisive")
    squares = (parts**2).sum((1, 3), keepdims=True)
    spread = count * squares - total**2
    beyond = np.maximum(np.frexp(spread.astype(np.float64))[1] - 31, 0)  # of 31 bits
    mean_square = np.ldexp((spread >> beyond).astype(one), beyond) / (one(count) * one(count))
    factor = one(unit.gain) / np.sqrt(mean_square + one(unit.eps)) / one(count)
    scaled = (count * parts - total).astype(one) * factor
    steps = np.trunc(scaled + np.where(scaled < 0, one(-0.5), one(0.5))).astype(np.int64)
    return np.clip(steps, -LARGEST, LARGEST).reshape(x.shape)


def layer(sweep: Sweep, table: Layer, x: np.ndarray, given: np.ndarray) -> np.ndarray:
    """What a sweep makes of x; `given` is what the unit received."""
    weight = None if table.weight is None else table.weight.astype(np.int64)
    sums = pooled(sweep, operated(sweep, weight, x), means=False) + table.bias
    if table.shortcut is not None:
        sums = sums + given * table.shortcut
    assert np.abs(sums).max() < 1 << 31
    below = np.minimum(sums - table.zero, 0)
    sums = np.maximum(sums, table.zero) + (below * table.slope + SLOPE_ONE // 2) // SLOPE_ONE
    return np.clip(requantised(sums, table.multiplier, table.shift), -LARGEST, LARGEST)


def outputs(network: Network, int8: Int8, pixels: np.ndarray) -> list[np.ndarray]:
    """What every int8 unit makes of images, (N, H, W, C) each."""
    x, found = received(int8, pixels), []
    for index, unit in enumerate(int8.units):
        given = x = normalised(network, int8, index, x)
        for sweep, table in zip(sweeps(network, index), unit.layers, strict=True):
            x = layer(sweep, table, x, given)
        found.append(x)
    return found


def averages(network: Network, int8: Int8, index: int, y: np.ndarray) -> np.ndarray:
    """Of an int8 unit's output: what its readout reads before it is normalised, float32 (N, features)."""
    unit = int8.units[index]
    return _by_cell(network, index, y, lambda mean: mean * unit.scale + unit.mean)


def averages_of(network: Network, index: int, y: np.ndarray) -> np.ndarray:
    """The same of a unit in float32."""
    return _by_cell(network, index, y, lambda mean: mean)


def _by_cell(network: Network, index: int, y: np.ndarray, real: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    readout, (n, h, w, _) = network.units[index].readout, y.shape
    assert readout
    rows, columns = min(readout.cells, h), min(readout.cells, w)
    cells = []
    for r in range(rows):
        for s in range(columns):
            top, bottom, left, right = r * h // rows, (r + 1) * h // rows, s * w // columns, (s + 1) * w // columns
            total = y[:, top:bottom, left:right].sum((1, 2)).astype(np.float32)
            cells.append(real(total / np.float32((bottom - top) * (right - left))))
    return np.stack(cells, axis=2).reshape(n, -1)  # channels first, then cells


def goodness(weights: dict[str, np.ndarray], index: int, averaged: np.ndarray) -> np.ndarray:
    """Of every row of a unit's readout, from averages (N, features): float32 (N, rows), summed one by one."""
    squares = np.add.accumulate(averaged * averaged, axis=1, dtype=np.float32)[:, -1]
    root = np.sqrt(squares / np.float32(averaged.shape[1]) + np.float32(1e-8))
    z = averaged / root[:, None]
    weight, bias = (weights[f"unit{index + 1}.readout.{name}"] for name in ("weight", "bias"))
    products = z[:, None] * weight  # (N, rows, features)
    found: np.ndarray = bias + np.add.accumulate(products, axis=2, dtype=np.float32)[..., -1]
    return found
