"""How a graph becomes a file: an ONNX model that documents itself, and whose weights lie in a safetensors file.

While a graph is built, the network's tensors are its inputs, under their names. Those that the file is to hold then
become initializers which name their place in the `weights.safetensors` beside it, as external data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import onnx
import spox
from numpy.typing import DTypeLike
from spox import Var

from ffruntime.core.architecture import Network, class_goodness
from ffruntime.core.graphs import GraphFile
from ffruntime.core.layers import tensors
from ffruntime.core.manifest import WEIGHTS
from ffruntime.core.precision import Precision, in_folder

Vars: TypeAlias = dict[str, Var]
Types: TypeAlias = Mapping[str, DTypeLike]  # of the tensors that are not float32
Files: TypeAlias = dict[str, bytes]  # name in the bundle -> content
Places: TypeAlias = dict[str, tuple[int, int]]  # (offset, length) in bytes of a tensor in a safetensors file
FP32: Types = {}
IR_VERSION = 10  # the newest that ONNX Runtime and the TensorRT parsers all read

GRAPHS = {  # by `described`
    "unit": "One Forward-Forward unit: its activation, its goodness (the mean square of the activation), and the "
    "activation normalised as the next unit's graph takes it.",
    "recurrent unit": "One synchronous step of one unit of a recurrent Forward-Forward network: its activity and "
    "goodness after the step, and what it makes of its input from below alone.",
    "goodness": "Goodness of every image with every label asked for; the answer is the label with the most.",
    "classifier": "The linear classifier: one pass with the neutral label, which favours no class.",
    "gradient": "The layer-local gradient of one Forward-Forward unit: of its own loss, on pairs of positive and "
    "negative data, with respect to its own parameters. Nothing is passed down.",
    "head_gradient": "The gradient of the linear classifier's cross-entropy with respect to its own parameters.",
    "class unit": "One unit of a network with class goodness: its activation, every class's goodness by its "
    "readout, and the activation normalised as the next unit's graph takes it.",
    "class goodness": "Goodness of every class asked for, in one pass; the answer is the class with the most.",
    "class gradient": "The layer-local gradient of one unit: of the cross-entropy of its own readout, with respect "
    "to its own parameters. Nothing is passed down.",
}
VALUES = {
    "input": "The unit's input, already normalised: for unit 1 the image with its label, else the 'output' of the "
    "graph below.",
    "activation": "The unit's activation, not normalised.",
    "below": "Activity of the unit below a step ago, not normalised: for unit 1 the standardised image.",
    "above": "Activity of the unit above a step ago, not normalised: for the topmost unit the label's pattern.",
    "self": "The unit's own activity a step ago, not normalised.",
    "start": "The unit's activity before the first step: what it makes of its input from below alone.",
    "output": "The activation, normalised as the next unit asks for it (of the topmost unit, divisively).",
    "images": "Images (N, C, H, W): pixels / 255, in [0, 1]. The graph standardises them.",
    "labels": "Labels to try (L): indices of patterns, in any order; repeats are allowed.",
    "goodness": "Goodness: the mean square of a unit's activation, accumulated in float32; (N), or (N, L, units).",
    "total": "Total goodness of every image with every label (N, L), over the units that are scored.",
    "logits": "The classifier's logits (N, patterns); the classes come first, then the spare rows.",
    "features": "What the classifier reads (N, D): normalised activations of the scored units, neutral label.",
    "positive": "The unit's input with the images and their right labels (N, …), already normalised.",
    "negative": "The unit's input with M negatives of each image, wrong labels or hybrids (M·N, …), normalised.",
    "next.positive": "The next unit's input from the positive data, before this update.",
    "next.negative": "The next unit's input from the negative data, before this update.",
    "goodness.positive": "Goodness of the positive data.",
    "goodness.negative": "Goodness of the negative data.",
    "loss": "The mean loss over the images.",
    "head_gradient.labels": "The right label of each image (N).",
    "class unit.input": "The unit's input, already normalised: for unit 1 the image, else the 'output' of the "
    "graph below.",
    "class unit.goodness": "Goodness of every row of the readout (N, rows): the classes come first, then the "
    "spare rows; 0 without a readout.",
    "class goodness.labels": "Classes to answer for (L): indices of rows, in any order; repeats are allowed.",
    "class goodness.goodness": "Goodness of the classes by every unit's readout (N, L, units); 0 without one.",
    "class goodness.total": "Total goodness of every class (N, L): the scored units', each times its weight.",
    "class goodness.features": "What the readouts of the scored units read, one unit after the other (N, F).",
    "class gradient.input": "The unit's input (N, …), already normalised.",
    "class gradient.labels": "The right label of each image (N).",
    "class gradient.labels.known": "Which rows of the readouts are classes' (rows): 1, or 0 for spare ones.",
    "class gradient.goodness": "Goodness of every row of the readout (N, rows).",
    "next": "The next unit's input, before this update.",
}


def tensor_inputs(network: Network, types: Types = FP32) -> Vars:
    """Every tensor of `weights.safetensors` as a graph input of the same name, and the scales of int8 weights."""
    inputs: Vars = {}
    for tensor in tensors(network):
        dtype = np.dtype(types.get(tensor.name, np.float32))
        inputs[tensor.name] = spox.argument(spox.Tensor(dtype, tensor.shape))
        if dtype == np.int8 and tensor.layer:
            scales = spox.Tensor(np.float32, tensor.shape[:1])  # one for each output
            inputs[f"{tensor.name}_scale"] = spox.argument(scales)
            inputs[f"{tensor.layer.name}.input_scale"] = spox.argument(spox.Tensor(np.float32, ()))
    return inputs


def of_dtype(network: Network, dtype: DTypeLike) -> Vars:
    """Every tensor of `weights.safetensors` as a graph input of that type."""
    return tensor_inputs(network, {tensor.name: dtype for tensor in tensors(network)})


def described(network: Network, graph: GraphFile) -> str:
    """Which of the descriptions in `GRAPHS` and `VALUES` is a graph's: its kind's, or that in such a network."""
    if class_goodness(network):
        return f"class {graph.kind}"
    return "recurrent unit" if network.steps and graph.kind == "unit" else graph.kind


def build(network: Network, graph: GraphFile, inputs: Vars, parameters: Vars, outputs: Vars) -> onnx.ModelProto:
    """The ONNX model of a graph; tensors of the network that the outputs do not depend on are dropped."""
    model = spox.build({**inputs, **parameters}, outputs, drop_unused_inputs=True)
    kind = described(network, graph)
    model.graph.name = f"ffedge {'recurrent ' if kind == 'recurrent unit' else ''}{graph.name}"
    model.ir_version = IR_VERSION
    ordered = sorted(model.graph.input, key=lambda value: value.name)  # spox leaves them as a set has them
    del model.graph.input[:]
    model.graph.input.extend(ordered)
    for node in model.graph.node:
        if node.op_type == "MaxPool":
            del node.output[1:]  # Indices: nobody uses them, and TensorRT's parsers refuse a node that has them
    _document(model, kind, network)
    return model


def _document(model: onnx.ModelProto, kind: str, network: Network) -> None:
    """Add doc strings, and name convolutions and products after the layer that they are."""
    model.doc_string = model.graph.doc_string = GRAPHS[kind]
    gradients = {t.gradient: f"Derivative of the loss with respect to {t.name}." for t in tensors(network)}
    for value in (*model.graph.input, *model.graph.output):
        text = VALUES.get(f"{kind}.{value.name}") or VALUES.get(value.name) or gradients.get(value.name)
        value.doc_string = text or f"The tensor {value.name} of {WEIGHTS}."
    layer_of = {t.name: t.layer.name for t in tensors(network) if t.layer and t.role == "weight"}
    stored = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            weight = stored.get(node.input[1], node.input[1])
            node.name = layer_of.pop(weight, node.name)  # where steps are unrolled, the first of its nodes


def tensor_places(file: Path) -> Places:
    """Place of every tensor in a safetensors file whose hash has been checked."""
    with file.open("rb") as stream:
        return read_places(stream)


def read_places(stream: BinaryIO) -> Places:
    """Place of every tensor, from the beginning of a safetensors file."""
    size = int.from_bytes(stream.read(8), "little")
    header = json.loads(stream.read(size))
    start = 8 + size
    return {
        name: (start + entry["data_offsets"][0], entry["data_offsets"][1] - entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def use_external_weights(model: onnx.ModelProto, places: Places) -> onnx.ModelProto:
    """The model, with every input that is a tensor of the weights file made an initializer that lies there.

    They come sorted by name, as inputs do, so that equal graphs are equal files.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.input[:]
    for value in model.graph.input:
        if value.name in places:
            result.graph.initializer.append(_external(value, *places[value.name]))
        else:
            result.graph.input.append(value)
    return result


def _external(value: onnx.ValueInfoProto, offset: int, length: int) -> onnx.TensorProto:
    kind = value.type.tensor_type
    tensor = onnx.TensorProto(
        name=value.name,
        data_type=kind.elem_type,
        dims=[dimension.dim_value for dimension in kind.shape.dim],
        data_location=onnx.TensorProto.EXTERNAL,
    )
    for key, content in (("location", WEIGHTS), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(content))
    return tensor


def graph_bytes(models: Mapping[str, onnx.ModelProto], places: Places, precision: Precision = "fp32") -> Files:
    """The graphs' files, the same bytes every time; tensors in `places` become initializers."""
    stored = {name: use_external_weights(model, places) for name, model in models.items()}
    return {
        in_folder(f"{name}.onnx", precision): model.SerializeToString(deterministic=True)
        for name, model in stored.items()
    }
