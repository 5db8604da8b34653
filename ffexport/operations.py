"""What graphs are built of: the architecture description's operations, written with spox.

Weights are a graph's inputs here; `external.py` then turns those into initializers that lie in the bundle's
`weights.safetensors`.

Precision is a matter of types, and the type of a layer's stored weight decides: float16 weights make a layer
compute in float16; int8 weights have scales, and the layer's input passes QuantizeLinear and DequantizeLinear. All
between the layers (normalisation, goodness, logits) is float32, and so are a graph's inputs and outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import onnx
import spox
import spox.opset.ai.onnx.v18 as op
from numpy.typing import DTypeLike
from spox import Tensor, Var, argument

from ffruntime.core.architecture import (
    EPS_BATCH,
    EPS_DIVISIVE,
    Conv,
    Input,
    Linear,
    Local,
    MaxPool,
    Network,
    Op,
    Shape,
    Unit,
    op_shape,
    shaped_ops,
    summed_shape,
    unit_name,
    unit_shapes,
)
from ffruntime.core.layers import tensor_shapes

from .document import document

Weights: TypeAlias = dict[str, Var]
Types: TypeAlias = Mapping[str, DTypeLike]  # of the weights that are not float32
FP32: Types = {}
IR_VERSION = 10  # the newest that ONNX Runtime and the TensorRT parsers all read


def constant(value: float | list[int]) -> Var:
    """A float as float32 scalar, or integers as an int64 vector."""
    return op.const(np.float32(value) if isinstance(value, float) else np.array(value, np.int64))


def scalar(value: float, like: Var) -> Var:
    """A float of the type that `like` has."""
    return op.const(np.array(value, dtype_of(like)))


def weight_inputs(network: Network, types: Types = FP32) -> Weights:
    """Every tensor of `weights.safetensors` as a graph input of the same name, and the scales of int8 weights."""
    weights: Weights = {}
    for name, shape in tensor_shapes(network).items():
        weights[name] = argument(Tensor(np.dtype(types.get(name, np.float32)), shape))
        if types.get(name) == np.int8:
            weights[f"{name}_scale"] = argument(Tensor(np.float32, (shape[0],)))  # a scale for each output
            weights[name.removesuffix("weight") + "input_scale"] = argument(Tensor(np.float32, ()))
    return weights


def dtype_of(x: Var) -> np.dtype:
    """Type of the elements."""
    return np.dtype(x.unwrap_tensor().dtype)


def to_type(x: Var, dtype: DTypeLike) -> Var:
    """x, cast where it is of another type."""
    return x if dtype_of(x) == np.dtype(dtype) else op.cast(x, to=np.dtype(dtype).type)


def operands(x: Var, layer: str, weights: Weights) -> tuple[Var, Var]:
    """A layer's input and its weight, in the type that the layer computes in."""
    weight = weights[f"{layer}.weight"]
    if dtype_of(weight) != np.int8:
        return to_type(x, dtype_of(weight)), weight
    scale, zero = weights[f"{layer}.input_scale"], op.const(np.int8(0))
    x = op.dequantize_linear(op.quantize_linear(to_type(x, np.float32), scale, zero), scale, zero)
    return x, op.dequantize_linear(weight, weights[f"{layer}.weight_scale"], axis=0)


def mean_square(x: Var, shape: Shape) -> Var:
    """Goodness of activations: (N, *shape) -> (N,), accumulated in float32.

    As (N, 1, …) first: of a mean without the axes, ONNX Runtime keeps x² until all units are done.
    """
    axes = constant(list(range(1, len(shape) + 1)))
    return op.reshape(op.reduce_mean(op.mul(x, x), axes, keepdims=1), constant([-1]))


def normalise_divisive(x: Var, shape: Shape) -> Var:
    """x / √(mean(x²) + ε) per sample (Hinton, section 2)."""
    axes = constant(list(range(1, len(shape) + 1)))
    mean = op.reduce_mean(op.mul(x, x), axes, keepdims=1)
    return op.div(x, op.sqrt(op.add(mean, scalar(EPS_DIVISIVE, x))))


def normalise(unit: Unit, prefix: str, weights: Weights, x: Var, shape: Shape) -> Var:
    """A unit's input as the unit asks for it; batch statistics are frozen."""
    kind = unit.inputs[0].normalise
    if kind == "none":
        return x
    if kind == "divisive":
        return normalise_divisive(x, shape)
    per_channel = constant([1, shape[0], *[1] * (len(shape) - 1)])
    mean = op.reshape(weights[f"{prefix}.below.mean"], per_channel)
    var = op.reshape(weights[f"{prefix}.below.var"], per_channel)
    return op.div(op.sub(x, mean), op.sqrt(op.add(var, scalar(EPS_BATCH, x))))


def apply_op(operation: Op, name: str, weights: Weights, x: Var, shape: Shape) -> Var:
    """One operation on x (N, *shape)."""
    if isinstance(operation, Local):
        return locally_connected(operation, name, weights, x, shape)
    if isinstance(operation, Conv):
        k, s, p = operation.kernel, operation.stride, operation.padding
        bias = weights[f"{name}.bias"] if operation.bias else None
        x, weight = operands(x, name, weights)
        return op.conv(x, weight, bias, kernel_shape=[k, k], strides=[s, s], pads=[p] * 4)
    if isinstance(operation, Linear):
        flat = op.reshape(x, constant([-1, math.prod(shape)])) if len(shape) > 1 else x
        bias = weights[f"{name}.bias"] if operation.bias else None
        flat, weight = operands(flat, name, weights)
        return op.gemm(flat, weight, bias, transB=1)
    if isinstance(operation, MaxPool):
        k = operation.size
        return op.max_pool(x, kernel_shape=[k, k], strides=[k, k])[0]
    return op.relu(x)


def locally_connected(operation: Local, name: str, weights: Weights, x: Var, shape: Shape) -> Var:
    """x (N, C, H, W) -> (N, out, H', W'): at each position a product with the weights of that position."""
    out, h, w = op_shape(operation, shape, name)
    neurons = constant([h * w, out, shape[0] * operation.kernel**2])
    x, weight = operands(x, name, weights)
    y = op.matmul(op.reshape(weight, neurons), fields(operation, x, shape))  # (H'·W', out, N)
    y = op.transpose(op.reshape(y, constant([h, w, out, -1])), perm=[3, 2, 0, 1])
    return op.add(y, weights[f"{name}.bias"]) if operation.bias else y


def fields(operation: Conv, x: Var, shape: Shape) -> Var:
    """Receptive fields of all positions: x (N, C, H, W) -> (H'·W', C·k·k, N)."""
    (c, _, _), (_, h, w) = shape, op_shape(operation, shape, "fields")
    k, s, p = operation.kernel, operation.stride, operation.padding
    x = op.pad(x, constant([0, 0, p, p] * 2)) if p else x
    for axis, size in ((2, h), (4, w)):
        x = op.gather(x, op.const(np.add.outer(s * np.arange(size), np.arange(k))), axis=axis)
    x = op.transpose(x, perm=[2, 4, 1, 3, 5, 0])  # from (N, C, H', k, W', k)
    return op.reshape(x, constant([h * w, c * k * k, -1]))


def apply_ops(chain: Unit | Input, prefix: str, weights: Weights, x: Var, shape: Shape) -> Var:
    """All operations of a unit or an input on x (N, *shape) -> float32."""
    for name, operation, before, _ in shaped_ops(chain, prefix, shape):
        x = apply_op(operation, f"{prefix}.{name}", weights, x, before)
    return to_type(x, np.float32)


def activation(network: Network, index: int, weights: Weights, x: Var) -> Var:
    """A unit's activation, float32, from its normalised input from below alone."""
    unit, name, below = network.units[index], unit_name(index), unit_shapes(network)[index][0]
    x = apply_ops(unit.inputs[0], f"{name}.below", weights, x, below)
    return apply_ops(unit, name, weights, x, summed_shape(unit, index, below))


def standardise(network: Network, images: Var) -> Var:
    """Images in [0, 1] -> (x − mean) / std."""
    return op.div(op.sub(images, constant(network.image.mean)), constant(network.image.std))


def morphology(network: Network, images: Var, elements: Var) -> Var:
    """Images (N, C, H, W), each dilated or eroded by its element (N or 1, 1, k, k): `ffruntime/embedding.py`.

    Row by row of the element, so that a temporary is k images and not k². What is outside the image or the element
    is the lowest float32, chosen by Where and never added, so that the maximum is one of the image's own values.
    """
    size, (_, h, w) = network.label.element, network.image.shape
    r, lowest, rows, last = size // 2, constant(float(np.finfo(np.float32).min)), constant([2]), constant([4])
    sign = op.slice(elements, constant([r, r]), constant([r + 1, r + 1]), constant([2, 3]))  # (N, 1, 1, 1)
    highest = signed = op.mul(images, sign)  # an erosion is a dilation of −x
    padded = op.pad(signed, constant([0, 0, r, r] * 2), lowest)
    windows = op.const(np.add.outer(np.arange(w), np.arange(size)))  # (W, k): the columns of each pixel's window
    members = op.unsqueeze(op.greater(op.mul(elements, sign), constant(0.0)), constant([3]))  # (N, 1, k, 1, k)
    for row, member in enumerate(op.split(members, num_outputs=size, axis=2)):
        shifted = op.gather(op.slice(padded, constant([row]), constant([row + h]), rows), windows, axis=3)
        kept = op.where(member, shifted, lowest)  # (N, C, H, W, k)
        highest = op.max([highest, op.reduce_max(kept, last, keepdims=0)])
    return op.mul(highest, sign)


def embed(network: Network, weights: Weights, images: Var, patterns: Var) -> Var:
    """Standardised images and label patterns of the same rank and batch -> the first unit's input."""
    if network.label.placement == "top":
        x = images
    elif network.label.placement == "channel":
        x = op.concat([images, patterns], axis=1)
    elif network.label.placement == "morphology":
        changed = morphology(network, images, patterns)
        x = op.add(changed, op.mul(weights["labels.keep"], op.sub(images, changed)))
    else:
        x = op.add(op.mul(images, weights["labels.keep"]), patterns)
    if network.label.normalise == "range":
        axes = constant([1, 2, 3])
        low = op.reduce_min(x, axes, keepdims=1)
        span = op.add(op.sub(op.reduce_max(x, axes, keepdims=1), low), constant(EPS_DIVISIVE))
        x = op.div(op.sub(x, low), span)
    return x


def activations(network: Network, weights: Weights, x: Var) -> list[Var]:
    """Activation of every unit in one pass from below, from the embedded input (N, …)."""
    result = []
    for index, (unit, (shape, _)) in enumerate(zip(network.units, unit_shapes(network), strict=True)):
        x = activation(network, index, weights, normalise(unit, unit_name(index), weights, x, shape))
        result.append(x)
    return result


def build(inputs: dict[str, Var], weights: Weights, outputs: dict[str, Var], name: str) -> onnx.ModelProto:
    """The ONNX model; weights that the outputs do not depend on are dropped."""
    model = spox.build({**inputs, **weights}, outputs, drop_unused_inputs=True)
    model.graph.name = name
    model.ir_version = IR_VERSION
    ordered = sorted(model.graph.input, key=lambda value: value.name)  # spox leaves them as a set has them
    del model.graph.input[:]
    model.graph.input.extend(ordered)
    for node in model.graph.node:
        if node.op_type == "MaxPool":
            del node.output[1:]  # Indices: nobody uses them, and TensorRT's parsers refuse a node that has them
    return document(model)
