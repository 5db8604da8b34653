"""What the published table of operators of TensorRT's parser (`onnx_tensorrt.toml`) says against a graph, and what
TensorRT-RTX's own parser says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from ffruntime.core.errors import BackendError
from ffruntime.engine import import_library, logger

TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
TYPES = {name: set(group["types"]) for group in TABLE["operators"] for name in group["names"]}
# Inputs that tell how, not what on, as ONNX has them: the table's types are those of the others.
TELLING = {
    "DequantizeLinear": {1, 2},
    "Expand": {1},
    "Gather": {1},
    "Pad": {1, 3},
    "QuantizeLinear": {1, 2},
    "Reshape": {1},
    "Slice": {1, 2, 3, 4},
    "Split": {1},
    "Where": {0},
}


def refusals(model: onnx.ModelProto) -> list[str]:
    """Every way in which a graph goes beyond the table, in words; none where it keeps to it."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = {value.name: value.type.tensor_type for value in (*graph.input, *graph.output, *graph.value_info)}
    types = {name: kind.elem_type for name, kind in values.items()}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    sizes = {name: len(kind.shape.dim) for name, kind in values.items()}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    zero_points = {node.input[2] for node in graph.node if node.op_type in TABLE["zero"] and len(node.input) > 2}
    nodes = [node for node in graph.node if not zero_points & {*node.output}]  # their rule is their reader's
    found = ((node, said) for node in nodes for said in _of(node, types, constants, sizes))
    return [f"{node.op_type} {node.name}: {said}" for node, said in found]


def _of(
    node: onnx.NodeProto, types: dict[str, int], constants: dict[str, TensorProto], sizes: dict[str, int]
) -> Iterator[str]:
    kind, given = node.op_type, dict(enumerate(node.input))
    if node.domain or kind not in TYPES:
        yield "not in the table"
        return
    how = TELLING.get(kind, set()) | set(TABLE["constant"].get(kind, ()))
    on = [name for position, name in given.items() if name and position not in how]
    for name in on or node.output:  # a constant has its own type alone
        if (found := TensorProto.DataType.Name(types[name])) not in TYPES[kind]:
            yield f"{name} is {found}"
    for position in TABLE["constant"].get(kind, ()):
        if given.get(position) and given[position] not in constants:
            yield f"input {position} is computed"
    for position in TABLE["zero"].get(kind, ()):
        if given.get(position) and np.any(numpy_helper.to_array(constants[given[position]])):
            yield f"input {position} is not zero"
    for attribute in node.attribute:
        if attribute.name in TABLE["without"].get(kind, ()):
            yield f"has {attribute.name}"
        if attribute.name in TABLE["ones"].get(kind, ()) and set(helper.get_attribute_value(attribute)) - {1}:
            yield f"{attribute.name} are not 1"
    if len(node.output) > TABLE["outputs"].get(kind, len(node.output)):
        yield "has a second output"
    if kind in TABLE["dimensions"] and sizes[node.input[0]] not in TABLE["dimensions"][kind]:
        yield f"pools {sizes[node.input[0]]} dimensions"


def rtx_library() -> Any:
    """TensorRT-RTX; None where it is not installed."""
    try:
        return import_library("tensorrt-rtx")
    except BackendError:
        return None


def rtx_refuses(model: onnx.ModelProto) -> str | None:
    """What TensorRT-RTX's parser says against a graph; None where it takes it, or is not here."""
    if (rtx := rtx_library()) is None:
        return None
    log = logger(rtx)
    network = rtx.Builder(log).create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    return None if rtx.OnnxParser(network, log).parse(model.SerializeToString()) else log.said()
