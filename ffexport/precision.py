"""A network's weights in another precision: the tensors of `fp16/` and `int8/weights.safetensors`.

Convolutions, linear layers and the classifier are lowered; label patterns, statistics and whatever is left out stay
float32. Names are those of `weights.safetensors`. An int8 weight stands for weight · weight_scale, with a scale for
each output, and has the scale of its layer's input beside it; both are symmetric, their zero point is 0.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from ffruntime.core.architecture import Network
from ffruntime.core.layers import layers as network_layers

INT8_LARGEST = 127  # symmetric: −128 is not used

Tensors = dict[str, np.ndarray]


def layers(network: Network) -> list[str]:
    """Every layer that can be lowered, from the input up: `unit1.conv1`, …, `head`."""
    return [layer.name for layer in network_layers(network) if layer.quantizable]


def to_fp16(weights: Mapping[str, np.ndarray], lowered: Collection[str]) -> Tensors:
    """Weights and biases of the layers `lowered` as float16; the classifier's bias is added in float32."""
    result = dict(weights)
    for layer in lowered:
        for name in (f"{layer}.weight", f"{layer}.bias"):
            if name in weights and name != "head.bias":
                result[name] = weights[name].astype(np.float16)
    return result


def to_int8(weights: Mapping[str, np.ndarray], input_scales: Mapping[str, float]) -> Tensors:
    """Weights of the layers that `input_scales` names as int8; biases stay float32."""
    result = dict(weights)
    for layer, input_scale in input_scales.items():
        name = f"{layer}.weight"
        weight = weights[name]  # (out, …)
        largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim)))
        scale = np.where(largest > 0, largest / INT8_LARGEST, 1).astype(np.float32)  # (out,)
        steps = np.rint(weight / scale.reshape(-1, *[1] * (weight.ndim - 1)))
        result[name] = steps.clip(-INT8_LARGEST, INT8_LARGEST).astype(np.int8)
        result[f"{name}_scale"] = scale
        result[f"{layer}.input_scale"] = np.array(input_scale, np.float32)
    return result
