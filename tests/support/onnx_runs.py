"""Graphs whose weights are inputs still: checked, and run in float32 and float64."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
import torch
from onnx.reference import ReferenceEvaluator


def check_graph(model: onnx.ModelProto) -> None:
    """Valid and plain, and shapes are inferred to the end."""
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    assert all(output.type.tensor_type.HasField("shape") for output in inferred.graph.output)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert model.ir_version <= 10
    assert not model.graph.initializer


def run(model: onnx.ModelProto, inputs: Mapping[str, torch.Tensor | np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by name. float32 in ONNX Runtime; float64, for which it has no Conv, in ONNX's own evaluator."""
    double = any(v.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE for v in model.graph.input)
    kind = np.float64 if double else np.float32
    given_to = {v.name: np.asarray(inputs[v.name]) for v in model.graph.input}
    given_to = {name: x if x.dtype == np.int64 else x.astype(kind) for name, x in given_to.items()}
    names = [output.name for output in model.graph.output]
    if double:
        return dict(zip(names, ReferenceEvaluator(model).run(names, given_to), strict=True))
    return dict(zip(names, ready(model).run(names, given_to), strict=True))


def ready(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """ONNX Runtime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
