"""The first units of a network in int8, for `src/ffint8.c`: weights, steps and integer multipliers, calibrated.

An int8 stands for itself times a step: of weights one for each channel, of what a layer receives one, from
calibration images. As in `../quantize.py` the share `WITHIN` of each class's values decides, and what is larger is
clipped. What a unit makes is stored as the unit above receives it, normalised by frozen statistics, so that padding
is 0; statistics of each image are taken of the int8, and normalise it to others. Of the last unit, which the
readout alone reads, every channel has a step of its own.

Most of a ReLU's outputs are 0, and the readout averages them: so 0 lies on a whole step, by a mean that is off by
half a step at most, and the biases above make up for the rest. Of recipe `micro`'s unit 1 the goodness of golden
images is off by 4 % of the largest so, else by 17 %.
"""

from __future__ import annotations

import math

import numpy as np
from msgspec import Struct

from ffruntime.core.architecture import AvgPool, Conv, Network
from ffruntime.core.data import Examples

from ..quantize import INT8_LARGEST, WITHIN
from .forward import EPS, EPS_DIVISIVE, RAW, Arrays, Place, observe, operated, ordered, statistics
from .sweeps import Sweep, sweeps

SLOPE_ONE = 1 << 15  # FF_SLOPE_ONE of src/ffint8.h
PIXEL_ONE = 1 << 16  # of a pixel's multiplier
LARGEST_SUM = 1 << 30  # of products; a bias, what normalisation takes off and a shortcut have an eighth of it each
SMALLEST = 1e-30


class Layer(Struct, frozen=True):
    """One sweep's tables: `struct ff_int8_layer`. Of every channel int32, but the weight: int8 (C, k, k, C below),
    or (C, features) of a linear layer."""

    weight: np.ndarray | None
    bias: np.ndarray
    zero: np.ndarray
    shortcut: np.ndarray | None
    multiplier: np.ndarray
    shift: np.ndarray
    slope: int


class Unit(Struct, frozen=True):
    """`struct ff_int8_unit`: `scale` and `mean` float32 (C,)."""

    layers: tuple[Layer, ...]
    scale: np.ndarray
    mean: np.ndarray
    gain: float
    eps: float


class Int8(Struct, frozen=True):
    """`struct ff_int8`: pixels' multipliers and offsets int32 (C,)."""

    units: tuple[Unit, ...]
    pixel_multiplier: np.ndarray
    pixel_offset: np.ndarray
    step: float  # of what the unit above these receives
    rest: np.ndarray  # and what is added to it, float32 (C,)


def why_not_int8(network: Network) -> str | None:
    """Why a network cannot be int8: sums beyond int32; None: it can."""
    for index in range(len(network.units)):
        for sweep in sweeps(network, index):
            if _largest_sum(sweep) > LARGEST_SUM:
                return f"{sweep.name}: adds up more products than int8 has room for"
    return None


class _Scales(Struct, frozen=True):
    """Steps of what each sweep receives, float64 (1,), and of what the last one makes, (1,) or (C,)."""

    network: Network
    weights: Arrays
    steps: dict[Place, np.ndarray]

    def sweep(self, place: Place) -> Sweep:
        return sweeps(self.network, place[0])[place[1]]

    def last(self, place: Place) -> bool:
        return place[1] == len(sweeps(self.network, place[0])) - 1

    def above(self, place: Place) -> Place:
        """What receives a sweep's output."""
        if not self.last(place):
            return place[0], place[1] + 1
        return (place[0] + 1, RAW) if (place[0] + 1, RAW) in self.steps else (place[0] + 1, 0)

    def taken_off(self, place: Place) -> tuple[np.ndarray, np.ndarray]:
        """Mean and root of the normalisation of a sweep's output, float64 (C,) or (1,)."""
        return (
            statistics(self.network, self.weights, place[0] + 1) if self.last(place) else (np.zeros(1), np.ones(1))
        )

    def adds(self, place: Place) -> bool:
        """Whether a sweep adds what its unit received."""
        return self.network.units[place[0]].shortcut and self.last(place)


def calibrate(network: Network, weights: Arrays, examples: Examples[np.ndarray], count: int) -> Int8:
    """The first `count` units in int8, by images of every class, uint8 (N, C, H, W)."""
    scales = _Scales(network, weights, _steps(network, weights, examples, count))
    _enlarge(scales)
    black, white = (end / scales.steps[min(scales.steps)] for end in _ends(network, weights))
    units, rest = list[Unit](), np.zeros(1)
    for index in range(count):
        unit, rest = _unit(scales, index, rest)
        units.append(unit)
    return Int8(
        tuple(units),
        np.rint((white - black) / 255 * PIXEL_ONE).astype(np.int32),
        np.rint(black * PIXEL_ONE + PIXEL_ONE // 2).astype(np.int32),
        float(scales.steps[count, 0][0]),
        np.broadcast_to(rest, units[-1].mean.shape).astype(np.float32),
    )


# ---------------------------------------- steps ----------------------------------------


def _steps(
    network: Network, weights: Arrays, examples: Examples[np.ndarray], count: int
) -> dict[Place, np.ndarray]:
    """By the largest value that is not clipped, over the classes."""
    largest: dict[Place, np.ndarray] = {}

    def see(place: Place, x: np.ndarray) -> None:
        flat = np.abs(x).reshape(-1, x.shape[-1] if place[0] == len(network.units) else 1)
        largest[place] = np.maximum(largest.get(place, 0), np.quantile(flat, WITHIN, axis=0).astype(np.float64))

    for label in np.unique(examples.labels):
        observe(network, weights, examples.pixels[examples.labels == label], count, see)
    return {place: np.where(value > 0, value, 1) / INT8_LARGEST for place, value in largest.items()}


def _ends(network: Network, weights: Arrays) -> list[np.ndarray]:
    """A black and a white pixel as the first unit receives them, (C,)."""
    mean, root = statistics(network, weights, 0)
    given = [(pixel - network.image.mean) / network.image.std for pixel in (0.0, 1.0)]
    return [np.broadcast_to((pixel - mean) / root, network.image.shape[:1]) for pixel in given]


def _enlarge(scales: _Scales) -> None:
    """Steps so large that a pixel is no more than 2^13 of them, and one in a sum less than one of them."""
    steps, ends = scales.steps, _ends(scales.network, scales.weights)
    steps[min(steps)] = np.maximum(steps[min(steps)], np.abs(ends).max() / (1 << 13))
    for place in sorted(place for place in steps if place[1] != RAW)[:-1]:
        above = scales.above(place)
        least = _sum_step(scales, place) / scales.taken_off(place)[1] * (1 + 1e-6)
        steps[above] = np.maximum(steps[above], least if len(steps[above]) > 1 else least.max())


def _area(sweep: Sweep) -> int:
    """Sums that are added up by pooling."""
    return sweep.pool.size**2 if isinstance(sweep.pool, AvgPool) else 1


def _largest_sum(sweep: Sweep) -> int:
    op = sweep.op
    terms = sweep.before[0] * op.kernel**2 if isinstance(op, Conv) else math.prod(sweep.before) if op else 1
    return INT8_LARGEST**2 * terms * _area(sweep)


def _weight_steps(scales: _Scales, place: Place) -> np.ndarray:
    """The step of each channel's weights, float64 (C,), so large that a bias, what normalisation takes off and a
    shortcut keep to int32; without an operation 1."""
    sweep = scales.sweep(place)
    if sweep.op is None:
        return np.ones(1)
    weight = scales.weights[f"{sweep.name}.weight"].astype(np.float64)
    own = np.abs(weight.reshape(len(weight), -1)).max(1) / INT8_LARGEST
    added = scales.steps[place[0], 0] * INT8_LARGEST if scales.adds(place) else np.zeros(1)
    most = np.maximum(np.maximum(np.abs(_bias(scales, place)), np.abs(scales.taken_off(place)[0])), added)
    return np.maximum(np.maximum(own, most * 8 / LARGEST_SUM * _area(sweep) / scales.steps[place]), SMALLEST)


def _bias(scales: _Scales, place: Place) -> np.ndarray:
    sweep = scales.sweep(place)
    has = sweep.op is not None and sweep.op.bias
    return scales.weights[f"{sweep.name}.bias"].astype(np.float64) if has else np.zeros(1)


def _sum_step(scales: _Scales, place: Place) -> np.ndarray:
    """What 1 in a channel's sum stands for, float64 (C,)."""
    sweep = scales.sweep(place)
    step = scales.steps[place] * _weight_steps(scales, place) / _area(sweep)
    return np.broadcast_to(step, (sweep.after[0],))


# ---------------------------------------- tables ----------------------------------------


def _unit(scales: _Scales, index: int, rest: np.ndarray) -> tuple[Unit, np.ndarray]:
    """A unit, where `rest` is missing in what it receives, (C below,) or (1,), and what is in what it makes."""
    count, layers, received = len(sweeps(scales.network, index)), list[Layer](), rest
    for number in range(count):
        layers.append(_layer(scales, (index, number), received, rest))
        received = np.zeros(1)
    place = (index, count - 1)
    mean, root = scales.taken_off(place)
    scale = root * scales.steps[scales.above(place)]
    found = -np.rint(-mean / scale) * scale  # the mean by which 0 lies on a whole step
    channels = (scales.sweep(place).after[0],)
    steps, taken = (np.broadcast_to(side, channels).astype(np.float32) for side in (scale, found))
    given = scales.network.units[index].inputs[0].normalise
    before, gain, eps = scales.steps.get((index, RAW)), 0.0, EPS_DIVISIVE if given == "divisive" else EPS
    if before is not None:
        gain, eps = 1 / float(scales.steps[index, 0][0]), eps / float(before[0]) ** 2
    return Unit(tuple(layers), steps, taken, gain, eps), (found - mean) / root


def _layer(scales: _Scales, place: Place, received: np.ndarray, given: np.ndarray) -> Layer:
    """A sweep's tables, where `received` is missing in what it receives and `given` in what its unit does."""
    sweep, unit_step, weight = scales.sweep(place), _sum_step(scales, place), None
    plain = ordered(sweep, scales.weights[f"{sweep.name}.weight"].astype(np.float64)) if sweep.op else None
    if plain is not None:
        own = _weight_steps(scales, place)
        weight = np.rint(plain / own.reshape(-1, *[1] * (plain.ndim - 1))).astype(np.int8)
    root, after = scales.taken_off(place)[1], scales.steps[scales.above(place)]
    factor = unit_step / (root * after)
    mean = scales.taken_off(place)[0]
    zero = np.rint(np.rint(-mean / (root * after)) / factor)
    bias = _bias(scales, place) + _made_of(sweep, plain, received) + (given if scales.adds(place) else 0)
    return Layer(
        weight,
        _integers(zero + np.rint(bias / unit_step)),
        _integers(zero),
        _integers(scales.steps[place[0], 0] / unit_step) if scales.adds(place) else None,
        *fixed_point(factor),
        SLOPE_ONE if sweep.slope is None else round(sweep.slope * SLOPE_ONE),
    )


def _made_of(sweep: Sweep, weight: np.ndarray | None, x: np.ndarray) -> np.ndarray:
    """What an operation makes of the same (C below,) at every pixel, (C,); as if there were no borders."""
    if weight is None or not x.any():
        return x
    c, h, w = (*sweep.before, 1, 1)[:3]
    if isinstance(sweep.op, Conv):
        return np.asarray(weight.sum((1, 2)) @ np.broadcast_to(x, (c,)))
    return operated(sweep, weight, np.broadcast_to(x, (1, h, w, c)))[0, 0, 0]


def fixed_point(factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factors below 1 as multiplier / 2^31 · 2^shift, int32 each, as `requantised` of src/ffint8.c takes them."""
    fraction, exponent = np.frexp(factors)  # 0.5 ≤ fraction < 1
    multiplier = np.minimum(np.rint(fraction * 2.0**31), 2.0**31 - 1).astype(np.int64)
    none = exponent < -30
    return np.where(none, 0, multiplier).astype(np.int32), np.where(none, 0, exponent).astype(np.int32)


def _integers(values: np.ndarray) -> np.ndarray:
    return np.rint(values).astype(np.int32)
