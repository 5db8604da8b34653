"""What a bundle's ONNX graph may hold, looked at before an engine sees it: a hash says that it is whole, no more.

Only the operators and attributes that `ffexport` writes, in a flat graph of bounded size, with the outputs that its
kind has in `docs/bundle.md`; their shapes are compared at each call. The file is read as protocol buffers, without
onnx (https://protobuf.dev/programming-guides/encoding, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from .core.architecture import Network, class_goodness, unit_shapes
from .core.errors import BundleError
from .core.graphs import GraphFile
from .core.layers import Tensor, head_parameters, tensor_shapes, unit_parameters
from .core.manifest import WEIGHTS
from .graph_shapes import require_sizes
from .protobuf import Fields, fields, messages, number, numbers, string, text

Outputs: TypeAlias = dict[str, tuple[int | str, ...]]  # shapes; a word is an input whose number of rows it is

OPSET, IR_VERSION = 18, 10
NODES = 50_000  # 1,000 units have fewer
SIZE = 8 << 20  # bytes of a graph
SLACK = 64  # times the elements of a network that the values of a graph may have in all; measured: 19 at most
CONSTANT = 1 << 16  # values in a constant that lies in the graph, and the largest size that is one
REDUCTION = frozenset({"keepdims", "noop_with_empty_axes"})
WINDOW = frozenset({"auto_pad", "ceil_mode", "kernel_shape", "strides"})
OPERATORS: dict[str, frozenset[str]] = {  # and the attributes that each may have
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Max", "Sum", "Where", "Equal", "Greater", "Less"), frozenset()),
    **dict.fromkeys(("Clip", "Exp", "Identity", "Log", "MatMul", "Neg", "Relu", "Sqrt"), frozenset()),
    **dict.fromkeys(("Expand", "Slice", "Squeeze", "Unsqueeze"), frozenset()),
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), REDUCTION),
    **dict.fromkeys(("Concat", "DequantizeLinear", "Gather", "LogSoftmax", "QuantizeLinear"), frozenset({"axis"})),
    "ArgMax": frozenset({"axis", "keepdims", "select_last_index"}),
    "AveragePool": WINDOW | {"count_include_pad"},
    "Cast": frozenset({"to"}),
    "Constant": frozenset({"value"}),
    "Conv": frozenset({"auto_pad", "group", "kernel_shape", "pads", "strides"}),
    "Gemm": frozenset({"alpha", "beta", "transA", "transB"}),
    "LeakyRelu": frozenset({"alpha"}),
    "MaxPool": WINDOW | {"storage_order"},
    "Pad": frozenset({"mode"}),
    "Reshape": frozenset({"allowzero"}),
    "Shape": frozenset({"start", "end"}),
    "Split": frozenset({"axis", "num_outputs"}),
    "Transpose": frozenset({"perm"}),
}
SHAPE_OPS = frozenset({"Cast", "Concat", "Gather", "Identity", "Shape", "Slice", "Squeeze", "Unsqueeze"})


def check_graph(file: Path, data: bytes, network: Network, graph: GraphFile) -> None:
    """Raise `BundleError` unless the graph in a file's bytes is one that `ffexport` could have written."""
    try:
        if len(data) > SIZE:
            raise ValueError(f"{len(data):,} bytes")
        _check(fields(memoryview(data)), network, graph)
    except ValueError as error:
        raise BundleError(f"{file}: no graph of a bundle: {error}; export it again") from error


def outputs_of(network: Network, graph: GraphFile) -> Outputs:
    """The outputs of a graph, with their shapes."""
    shapes, patterns, units = tensor_shapes(network), network.label.patterns, len(network.units)
    if graph.kind == "goodness":
        return {"goodness": ("images", "labels", units), "total": ("images", "labels")}
    if graph.kind == "classifier":
        return {"logits": ("images", patterns), "features": ("images", shapes["head.weight"][1])}
    if graph.kind == "head_gradient":
        return {**_gradients(head_parameters(network)), "logits": ("features", patterns), "loss": ()}
    assert graph.unit is not None
    of_classes, shape = class_goodness(network), unit_shapes(network)[graph.unit][1]
    if graph.kind == "gradient":
        parts = {"": "input"} if of_classes else {".positive": "positive", ".negative": "negative"}
        rows: Outputs = {f"next{part}": (of, *shape) for part, of in parts.items()}
        rows |= {f"goodness{part}": (of, patterns) if of_classes else (of,) for part, of in parts.items()}
        return {**_gradients(unit_parameters(network, graph.unit)), **rows, "loss": ()}
    of = "below" if network.steps else "input"
    last = "start" if network.steps else "output"
    return {"activation": (of, *shape), "goodness": (of, patterns) if of_classes else (of,), last: (of, *shape)}


def _gradients(parameters: Iterable[Tensor]) -> Outputs:
    return {parameter.gradient: parameter.shape for parameter in parameters}


def require_outputs(
    file: Path, outputs: Outputs, given: Mapping[str, int], found: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise `BundleError` unless the shapes `found` are those of `outputs`, `given` the rows of every input."""
    for name, shape in outputs.items():
        wanted = tuple(given.get(size, 0) if isinstance(size, str) else size for size in shape)
        if found.get(name) != wanted:
            raise BundleError(f"{file}: its output '{name}' is {found.get(name)}, not {wanted}; export it again")


def _check(model: Fields, network: Network, graph: GraphFile) -> None:
    opsets = [fields(opset) for opset in messages(model, 8)]
    if [(text(opset, 1), number(opset, 2)) for opset in opsets] != [("", OPSET)] or number(model, 1) > IR_VERSION:
        raise ValueError(f"it is not of opset {OPSET} alone")
    if model.get(25) or model.get(20):
        raise ValueError("it has functions, or training")
    (body,) = (fields(part) for part in messages(model, 7)) if len(model.get(7, [])) == 1 else ({},)
    nodes = [fields(node) for node in messages(body, 1)]
    if not nodes or len(nodes) > NODES or body.get(15):
        raise ValueError(f"it has {len(nodes):,} nodes, or sparse tensors")
    for tensor in messages(body, 5):
        _check_initializer(fields(tensor))
    largest = network.label.patterns * max(math.prod(shape) for shapes in unit_shapes(network) for shape in shapes)
    makers = {string(name): node for node in nodes for name in messages(node, 2)}
    for node in nodes:
        _check_node(node, makers, largest)
    outputs = {text(fields(output), 1) for output in messages(body, 12)}
    if missing := outputs_of(network, graph).keys() - outputs:
        raise ValueError(f"it has no output '{min(missing)}'")
    require_sizes(body, nodes, SLACK * _elements(network) + CONSTANT)


def _elements(network: Network) -> int:
    """Elements of all activations, with every label, in every step, and of all parameters."""
    activations = sum(max(math.prod(shape) for shape in shapes) for shapes in unit_shapes(network))
    parameters = sum(math.prod(shape) for shape in tensor_shapes(network).values())
    steps = network.steps.count if network.steps else 1
    return network.label.patterns * activations * steps + parameters


def _check_initializer(tensor: Fields) -> None:
    """A tensor of the weights file beside it."""
    places = {text(entry, 1): text(entry, 2) for entry in map(fields, messages(tensor, 13))}
    if places.get("location") != WEIGHTS or places.keys() > {"location", "offset", "length"}:
        raise ValueError(f"'{text(tensor, 8)}' does not lie in {WEIGHTS}")


def _check_node(node: Fields, makers: Mapping[str, Fields], largest: int) -> None:
    """Raise `ValueError` for what `ffexport` does not write; no constant names more than `largest` values."""
    kind, inputs = text(node, 4), [string(name) for name in messages(node, 1)]
    if kind not in OPERATORS or text(node, 7):
        raise ValueError(f"operator {kind!r}")
    for attribute in map(fields, messages(node, 5)):
        name = text(attribute, 1)
        if name not in OPERATORS[kind] or any(attribute.get(number) for number in (6, 11, 10, 15, 21, 22, 23)):
            raise ValueError(f"attribute {name!r} of {kind}")
        if kind != "Cast" and any(abs(value) > CONSTANT for value in numbers(attribute, 8)):
            raise ValueError(f"attribute {name!r} of {kind} is out of bounds")
        if kind == "Constant":
            (tensor,) = map(fields, messages(attribute, 5))
            if math.prod(numbers(tensor, 1)) > CONSTANT or tensor.get(13):
                raise ValueError("a constant that is too large, or elsewhere")
    if kind == "Pad" and not all(0 <= size <= CONSTANT for size in _constant(makers.get("".join(inputs[1:2])))):
        raise ValueError("Pad by a size that is out of bounds")
    if kind == "Expand" and _named_size("".join(inputs[1:2]), makers) > largest:
        raise ValueError(f"{kind} to a size that is out of bounds")


def _named_size(name: str, makers: Mapping[str, Fields], depth: int = 0) -> int:
    """The product of all constants that a shape is made of; the other sizes are those of values that are there."""
    node = makers.get(name)
    if node is None or text(node, 4) == "Shape":
        return 1
    if text(node, 4) == "Constant":
        return math.prod(max(1, abs(size)) for size in _constant(node))
    if text(node, 4) not in SHAPE_OPS or depth > 4:
        raise ValueError(f"a shape that is computed by {text(node, 4)}")
    made = [string(source) for source in messages(node, 1)]
    if len(made) > 16:
        raise ValueError("a shape of many parts")
    if text(node, 4) != "Concat":
        made = made[:1]  # the others are places
    return math.prod(_named_size(source, makers, depth + 1) for source in made)


def _constant(node: Fields | None) -> list[int]:
    """The integers (int64) that a Constant node holds. Raises `ValueError` where it is none."""
    if node is None or text(node, 4) != "Constant":
        raise ValueError("a size that is no constant")
    (tensor,) = (fields(part) for attribute in messages(node, 5) for part in messages(fields(attribute), 5))
    raw = b"".join(messages(tensor, 9))
    found = [int.from_bytes(raw[at : at + 8], "little", signed=True) for at in range(0, len(raw), 8)]
    return found + numbers(tensor, 7)
