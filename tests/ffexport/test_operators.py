"""Every graph of every recipe holds only what ONNX Runtime and the three TensorRTs document as supported.

For the TensorRTs that is the table of their parser, operator by operator with types and restrictions
(`support/onnx_tensorrt.toml`, with its source and version; later ones add to it: it was read as of TensorRT 10.15,
too). TensorRT-RTX's own parser reads every graph beside it; `test_operator_table.py` has it build some. For ONNX
Runtime's CPU and CUDA providers, docs/OperatorKernels.md of https://github.com/microsoft/onnxruntime was read, in
2026.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from _pytest.mark import ParameterSet
from onnx import TensorProto
from onnx_tensorrt import TYPES as PUBLISHED
from onnx_tensorrt import refusals, rtx_refuses

from ffexport.gradient_graphs import all_gradient_graphs
from ffexport.inference_graphs import all_graphs
from ffexport.layer_graphs import OPERATIONS
from ffexport.onnx_files import Types
from ffexport.quantize import quantizable_layers
from ffruntime.core.architecture import (
    AvgPool,
    Conv,
    Image,
    Input,
    Label,
    LeakyRelu,
    Linear,
    MaxPool,
    Network,
    Readout,
    Relu,
    Unit,
)
from ffruntime.core.errors import FFError
from ffruntime.core.graphs import graphs
from ffruntime.core.learning import ClassLoss, LocalLoss, PairLoss, Ratio, Symmetric, Threshold
from ffruntime.graph_check import OPERATORS, check_graph
from fftrain.recipe import build_network, learning_of, load_recipe, recipe_names

REDUCTION = {"keepdims": {0, 1}, "noop_with_empty_axes": {0}}
UNLIMITED = None  # any value
# Operator -> the attributes that may be there, with the values that may. Values that say nothing (an attribute's
# default) are what spox writes down; none of the others restricts the operator in the tables.
SUPPORTED: dict[str, dict[str, set[object] | None]] = {
    "Add": {},
    "AveragePool": {  # no dilations
        "auto_pad": {b"NOTSET"},
        "ceil_mode": {0},
        "count_include_pad": {0},
        "kernel_shape": UNLIMITED,
        "strides": UNLIMITED,
    },
    "ArgMax": {"axis": UNLIMITED, "keepdims": {0, 1}, "select_last_index": {0}},
    "Cast": {"to": {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64}},
    "Clip": {},
    "Concat": {"axis": UNLIMITED},
    "Constant": {"value": UNLIMITED},  # not sparse_value or a string
    "Conv": {
        "auto_pad": {b"NOTSET"},
        "group": {1},
        "kernel_shape": UNLIMITED,
        "pads": UNLIMITED,
        "strides": UNLIMITED,
    },
    "DequantizeLinear": {"axis": UNLIMITED},
    "Div": {},
    "Equal": {},
    "Exp": {},
    "Expand": {},
    "Gather": {"axis": UNLIMITED},
    "Gemm": {"alpha": {1.0}, "beta": {1.0}, "transA": {0}, "transB": {0, 1}},
    "Greater": {},
    "Identity": {},
    "LeakyRelu": {"alpha": UNLIMITED},
    "Less": {},
    "Log": {},
    "LogSoftmax": {"axis": UNLIMITED},
    "MatMul": {},
    "Max": {},
    "MaxPool": {  # no dilations, and no second output
        "auto_pad": {b"NOTSET"},
        "ceil_mode": {0},
        "kernel_shape": UNLIMITED,
        "storage_order": {0},
        "strides": UNLIMITED,
    },
    "Mul": {},
    "Neg": {},
    "Pad": {"mode": {b"constant"}},
    "QuantizeLinear": {"axis": UNLIMITED},  # symmetric: the zero point is 0
    "ReduceMax": REDUCTION,
    "ReduceMean": REDUCTION,
    "ReduceMin": REDUCTION,
    "ReduceSum": REDUCTION,
    "Relu": {},
    "Reshape": {"allowzero": {0}},
    "Shape": {"start": UNLIMITED, "end": UNLIMITED},
    "Slice": {},
    "Split": {"axis": UNLIMITED, "num_outputs": UNLIMITED},
    "Sqrt": {},
    "Squeeze": {},
    "Sub": {},
    "Sum": {},
    "Transpose": {"perm": UNLIMITED},
    "Unsqueeze": {},
    "Where": {},
}
TYPES = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.INT64, TensorProto.BOOL}


FAST = ("class",)


def network_of(name: str) -> tuple[Network, LocalLoss | None]:
    """A recipe's network and the loss of its units, on images of the shape that it is for."""
    recipe = load_recipe(name)
    colour = name.startswith(("cifar", "hinton-local"))
    image = Image((3, 32, 32) if colour else (1, 28, 28))
    network = build_network(recipe, image, 12)
    learning = learning_of(recipe)
    return network, learning.loss if learning else None


def precisions(network: Network) -> Iterator[Types]:
    """Types of the weights in fp32, fp16 and int8."""
    yield {}
    parts = [(f"{layer}.weight", f"{layer}.bias") for layer in quantizable_layers(network)]
    yield {name: np.float16 for pair in parts for name in pair if name != "head.bias"}
    yield {weight: np.int8 for weight, _ in parts}


def check_all(network: Network, models: Mapping[str, onnx.ModelProto]) -> None:
    """Those, and that the device that is to run them does not refuse them."""
    for name, model in models.items():
        check(model)
        check_graph(Path(name), model.SerializeToString(), network, graphs(network)[name])


def check(model: onnx.ModelProto) -> None:
    """Operators, attributes, constants and types of one graph."""
    assert refusals(model) == []
    assert rtx_refuses(model) is None
    for node in model.graph.node:
        assert node.domain == ""
        assert node.op_type in SUPPORTED, node.name
        allowed = SUPPORTED[node.op_type]
        for attribute in node.attribute:
            assert attribute.name in allowed, (node.op_type, attribute.name)
            values = allowed[attribute.name]
            value = onnx.helper.get_attribute_value(attribute)
            assert values is UNLIMITED or value in values, (node.op_type, attribute.name, value)
        assert node.op_type != "Squeeze" or len(node.input) == 2  # required before TensorRT 11.5
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    graph = inferred.graph
    values = [*graph.input, *graph.output, *graph.value_info]
    used = {value.type.tensor_type.elem_type for value in values} | {
        tensor.data_type for tensor in graph.initializer
    }
    assert used <= TYPES  # no bfloat16, no double, no uint8


def different() -> Iterator[ParameterSet]:
    """Recipes whose graphs differ in more than the widths of layers: the first of each kind stands for all."""
    seen = set()
    for name in recipe_names():
        network, loss = network_of(name)
        kind = re.sub(r'"out":\d+', "", msgspec.json.encode((network, loss)).decode())
        if kind not in seen:
            seen.add(kind)
            yield pytest.param(name, marks=[] if name in FAST else pytest.mark.slow)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(different()))
def test_every_graph_of_every_recipe(name: str) -> None:
    network, loss = network_of(name)
    for types in precisions(network):
        check_all(network, all_graphs(network, types))
    check_all(network, all_gradient_graphs(network, loss))


@pytest.mark.slow
@pytest.mark.parametrize("loss", [Threshold(theta=1.0), Symmetric(), Ratio()])
@pytest.mark.parametrize("name", ["cpu", "paper", "cifar-morphology"])
def test_every_loss_in_every_kind_of_network(name: str, loss: PairLoss) -> None:
    network, _ = network_of(name)
    check_all(network, all_gradient_graphs(network, loss))


@pytest.mark.slow
def test_every_operation_and_normalisation_beside_them() -> None:
    """What no recipe has."""
    units = (
        Unit((Conv(4, 3, padding=1), AvgPool(), LeakyRelu()), (Input(normalise="layer"),), readout=Readout(3)),
        Unit(
            (Conv(4, 3, padding=1), Relu()),
            (Input(normalise="group", groups=2),),
            shortcut=True,
            readout=Readout(2),
        ),
        Unit((Linear(4), LeakyRelu()), (Input(normalise="instance"),), readout=Readout()),
    )
    network = Network(Image((1, 8, 8)), Label("readout", 4), units)
    for types in precisions(network):
        check_all(network, all_graphs(network, types))
    check_all(network, all_gradient_graphs(network, ClassLoss(0.1)))


def test_a_device_knows_the_same_operators() -> None:
    assert {name: frozenset(attributes) for name, attributes in SUPPORTED.items()} == OPERATORS


def test_the_published_table_has_the_same_operators() -> None:
    assert SUPPORTED.keys() == PUBLISHED.keys()


def test_an_operation_without_graphs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(OPERATIONS, MaxPool)
    network = Network(Image((1, 8, 8)), Label("add", 2), (Unit((MaxPool(), Relu())),))
    with pytest.raises(FFError, match=r"unit1\.max_pool1: no graphs of max_pool: .*layer_graphs\.py"):
        all_graphs(network)
