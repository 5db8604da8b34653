"""Weights stay in `weights.safetensors`: graphs name them as external data at their byte offset there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import BinaryIO

import onnx
from onnx import TensorProto

from ffruntime.core.manifest import WEIGHTS


def tensor_places(file: Path) -> dict[str, tuple[int, int]]:
    """(offset, length) in bytes of every tensor in a safetensors file whose hash has been checked."""
    with file.open("rb") as stream:
        return read_places(stream)


def read_places(stream: BinaryIO) -> dict[str, tuple[int, int]]:
    """(offset, length) in bytes of every tensor, from the beginning of a safetensors file."""
    size = int.from_bytes(stream.read(8), "little")
    header = json.loads(stream.read(size))
    start = 8 + size
    return {
        name: (start + entry["data_offsets"][0], entry["data_offsets"][1] - entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def use_external_weights(model: onnx.ModelProto, places: dict[str, tuple[int, int]]) -> onnx.ModelProto:
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


def _external(value: onnx.ValueInfoProto, offset: int, length: int) -> TensorProto:
    kind = value.type.tensor_type
    tensor = TensorProto(
        name=value.name,
        data_type=kind.elem_type,
        dims=[dimension.dim_value for dimension in kind.shape.dim],
        data_location=TensorProto.EXTERNAL,
    )
    for key, content in (("location", WEIGHTS), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(content))
    return tensor
