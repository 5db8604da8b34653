"""The published table of TensorRT's parser can refuse, and TensorRT-RTX builds what has no engine elsewhere."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
from narrow import narrow
from onnx import TensorProto, helper
from onnx_tensorrt import refusals, rtx_library

from ffexport.engines import PLAIN, BuildSettings, EngineLimits, build, dynamic_sizes
from ffexport.gradient_graphs import all_gradient_graphs
from ffexport.inference_graphs import all_graphs
from ffexport.onnx_files import use_external_weights
from ffruntime.core.architecture import Image
from ffruntime.core.graphs import graphs
from ffruntime.core.layers import tensors
from ffruntime.core.manifest import WEIGHTS
from ffruntime.engine import Target
from fftrain.recipe import build_network, learning_of

IMAGES, AXES = ("x", TensorProto.FLOAT, [2, 3, 8, 8]), ("axes", TensorProto.INT64, [1])
SIGNAL, DOUBLES = ("x", TensorProto.FLOAT, [2, 3, 8]), ("x", TensorProto.DOUBLE, [3])
COUNTS, LOWEST = ("x", TensorProto.INT64, [3]), ("low", TensorProto.INT64, [])
SCALE, THREE = (
    helper.make_tensor("s", TensorProto.FLOAT, [], [0.5]),
    helper.make_tensor("z", TensorProto.INT8, [], [3]),
)


@pytest.mark.parametrize(
    ("kind", "inputs", "outputs", "attributes", "said"),
    [
        ("Det", (IMAGES,), "y", {}, "not in the table"),
        ("Exp", (DOUBLES,), "y", {}, "x is DOUBLE"),
        ("Clip", (COUNTS, LOWEST), "y", {}, "x is INT64"),
        ("ReduceMean", (IMAGES, AXES), "y", {}, "input 1 is computed"),
        ("MaxPool", (IMAGES,), "yz", {"kernel_shape": [2, 2]}, "has a second output"),
        ("MaxPool", (IMAGES,), "y", {"kernel_shape": [2, 2], "dilations": [2, 2]}, "dilations are not 1"),
        ("MaxPool", (SIGNAL,), "y", {"kernel_shape": [2]}, "pools 3 dimensions"),
        ("QuantizeLinear", (IMAGES, SCALE, THREE), "y", {}, "input 2 is not zero"),
    ],
)
def test_what_goes_beyond_the_published_table_is_said(
    kind: str, inputs: Sequence[Any], outputs: str, attributes: dict[str, Any], said: str
) -> None:
    given = [helper.make_tensor_value_info(*one) for one in inputs if isinstance(one, tuple)]
    constants = [one for one in inputs if isinstance(one, TensorProto)]
    names = [one[0] if isinstance(one, tuple) else one.name for one in inputs]
    node = helper.make_node(kind, names, list(outputs), **attributes)
    graph = helper.make_graph([node], "one", given, [onnx.ValueInfoProto(name=name) for name in outputs], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    assert f"{kind} : {said}" in refusals(model)


@pytest.mark.slow
@pytest.mark.skipif(rtx_library() is None, reason="TensorRT-RTX is not installed")
@pytest.mark.parametrize(
    ("name", "graph"), [("hinton-local", "goodness"), ("cifar-morphology", "gradient2"), ("intff", "gradient1")]
)
def test_tensorrt_rtx_builds_what_no_trained_network_has(name: str, graph: str, tmp_path: Path) -> None:
    """Recurrent steps over locally connected units; labels that dilate and erode; units of several layers. Beside
    `test_tensorrt_rtx.py`, which builds every graph of a network of either kind of goodness."""
    rtx = rtx_library()
    recipe, image = narrow(name), Image((3, 32, 32) if name.startswith("cifar") else (1, 28, 28))
    network, learning = build_network(recipe, image, 10 + recipe.patterns.spare), learning_of(recipe)
    models = all_gradient_graphs(network, learning.loss) if learning else all_graphs(network)
    of = graphs(network)[graph]
    sizes = {tensor.name: 4 * math.prod(tensor.shape) for tensor in tensors(network) if tensor.name in of.holds}
    begins = dict(zip(sizes, itertools.accumulate(sizes.values(), initial=0), strict=False))
    with (tmp_path / WEIGHTS).open("wb") as file:
        file.truncate(sum(sizes.values()))
    model = use_external_weights(models[of.name], {name: (begins[name], size) for name, size in sizes.items()})
    (tmp_path / of.file).write_bytes(model.SerializeToString())
    limit = EngineLimits(batch=4, labels=12)
    settings = BuildSettings("tensorrt-rtx", rtx.__version__, Target(("8.9",)), "fp32", limit, False, PLAIN)
    engine, shapes = build(rtx, tmp_path / of.file, dynamic_sizes(network, of, limit), settings)
    assert len(engine) > 1000
    assert shapes.keys() == {value.name for value in model.graph.input}
