"""From a network's features to the few bytes that class statistics are made of: quantized, projected, quantized.

Everything after the first rounding is integer arithmetic, so every platform makes the same of the same features.
The projection is a subsampled randomised Hadamard transform (Ailon and Chazelle 2006; Tropp 2011): signs drawn at
random, a Hadamard transform, some of its rows. Signs and rows come from a seed and are never stored.
"""

from __future__ import annotations

import functools
import math

import numpy as np

STEPS = 16  # of a quantized feature to 1, which is the root mean square of an image's features in a unit
LARGEST = 127
EXACT = 1 << 17  # padded features whose transform is exact in float32: their sums stay below 2²⁴


def project(features: np.ndarray, dimension: int, seed: int, root: bool = False) -> np.ndarray:
    """Features float (N, F) -> int8 (N, dimension), for `dimension` ≤ F. With `root`, of their square roots, which
    keep the features' signs: strong and weak ones are more alike (direction features: Liu et al. 2003)."""
    count = features.shape[1]
    if root:
        features = np.copysign(np.sqrt(np.abs(features)), features)
    signs, rows, left, right = _plan(count, dimension, seed)
    quantized = np.clip(np.rint(features * np.float32(STEPS)), -LARGEST, LARGEST)
    padded = np.zeros((len(features), len(left) * len(right)), left.dtype)
    np.multiply(quantized, signs, out=padded[:, :count], casting="same_kind")
    mixed = left @ padded.reshape(-1, len(left), len(right)) @ right
    sums = mixed.reshape(padded.shape)[:, rows].astype(np.int64)
    lost = shift(count)
    return np.clip((sums + (1 << lost >> 1)) >> lost, -LARGEST, LARGEST).astype(np.int8)


def shift(count: int) -> int:
    """Bits that a sum loses, so that its root mean square, STEPS · √count, comes to lie between 16 and 32."""
    return max(0, math.ceil(math.log2(STEPS * math.sqrt(count) / 32)))


def kept_rows(count: int, dimension: int, seed: int) -> np.ndarray:
    """The rows of the Hadamard matrix that are kept of so many features, int64 (dimension,), rising."""
    return _plan(count, dimension, seed)[1]


@functools.lru_cache(maxsize=4)
def _plan(count: int, dimension: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Signs (count,), the rows that are kept (dimension,), and the two Hadamard matrices that are the transform:
    of an image's features as a matrix, the one times that times the other."""
    padded = 1 << (count - 1).bit_length()  # the next power of two
    dtype = np.float64 if padded > EXACT else np.float32
    numbers = _random(seed, count + padded)
    signs = np.where(numbers[:count] >> np.uint64(63), -1, 1).astype(dtype)
    rows = np.sort(np.argsort(numbers[count:], kind="stable")[:dimension])
    bits = padded.bit_length() - 1
    return signs, rows, _hadamard(bits // 2, dtype), _hadamard(bits - bits // 2, dtype)


def _hadamard(bits: int, dtype: type) -> np.ndarray:
    """Sylvester's matrix of ±1, 2^bits a side."""
    matrix: np.ndarray = np.ones((1, 1), dtype)
    for _ in range(bits):
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def _random(seed: int, count: int) -> np.ndarray:
    """The first `count` numbers of SplitMix64 (Steele, Lea, Flood 2014) from a seed, uint64."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
