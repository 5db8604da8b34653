"""How large the values of a graph become, computed from its inputs' shapes before an engine sees it: operators that
are harmless one by one can double what they are given, again and again.

Shapes are inferred as ONNX says of each operator (https://onnx.ai/onnx/operators), of those alone that a bundle's
graphs have, for inputs whose free sizes are all 1, and all 2: what grows faster than images times labels is
refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from .protobuf import Fields, fields, messages, number, numbers, string, text

Shape: TypeAlias = tuple[int, ...]
LARGEST = 1 << 14  # integers of a value that are computed with: shapes are of a few
FASTEST = 4  # times as large, where all free sizes are twice as large: images and labels
SLACK = 1 << 10  # elements that a value may have more than that


class Node(NamedTuple):
    """An operator with its attributes: integers, and lists of them."""

    kind: str
    inputs: list[str]
    outputs: list[str]
    ints: dict[str, list[int]]
    names: dict[str, str]

    def one(self, name: str, default: int) -> int:
        return self.ints.get(name, [default])[0]


class Values:
    """What is known of the values of a graph: shapes, and the integers of small ones."""

    def __init__(self) -> None:
        self.shapes: dict[str, Shape] = {}
        self.known: dict[str, np.ndarray] = {}

    def shape(self, name: str) -> Shape:
        if name not in self.shapes:
            raise ValueError(f"a value that there is not: {name!r}")
        return self.shapes[name]

    def integers(self, name: str) -> list[int]:
        if name not in self.known:
            raise ValueError(f"a size that is not known before it runs: {name!r}")
        return [int(value) for value in self.known[name].reshape(-1)]


def require_sizes(body: Fields, nodes: Sequence[Fields], most: int) -> None:
    """Raise `ValueError` where the values of a graph (of ONNX) have more than `most` elements in all for one image
    and one label, or grow faster than with both."""
    try:
        read = [(_node(found), found) for found in nodes]
        one, two = _sizes(body, read, 1), _sizes(body, read, 2)
    except (ArithmeticError, LookupError, TypeError) as error:
        raise ValueError(f"shapes that do not fit: {error}") from error
    if sum(one.values()) > most:
        raise ValueError(f"its values have {sum(one.values()):,} elements, more than a network's")
    for name, size in two.items():
        if size > FASTEST * one.get(name, 0) + SLACK:
            raise ValueError(f"{name!r} grows faster than its inputs")


def _sizes(body: Fields, nodes: Sequence[tuple[Node, Fields]], free: int) -> dict[str, int]:
    """The number of elements of every value that a node makes, where free sizes are that."""
    values = Values()
    for tensor in map(fields, messages(body, 5)):
        values.shapes[text(tensor, 8)] = tuple(numbers(tensor, 1))
    for given in messages(body, 11):
        values.shapes[text(fields(given), 1)] = _given(fields(given), free)
    sizes: dict[str, int] = {}
    for node, found in nodes:
        shapes = _constant(found, node, values) if node.kind == "Constant" else _shapes(node, values)
        for name, shape in zip(node.outputs, shapes, strict=True):
            if min(shape, default=0) < 0:
                raise ValueError(f"a size below nothing: {name!r}")
            values.shapes[name] = shape
            sizes[name] = math.prod(shape)
    return sizes


def _given(value: Fields, free: int) -> Shape:
    """The shape of a graph's input."""
    kinds = [fields(tensor) for kind in messages(value, 2) for tensor in messages(fields(kind), 1)]
    dims = [fields(dim) for kind in kinds for shape in messages(kind, 2) for dim in messages(fields(shape), 1)]
    return tuple(number(dim, 1) if 1 in dim else free for dim in dims)


def _node(found: Fields) -> Node:
    ints, names = {}, {}
    for attribute in map(fields, messages(found, 5)):
        name = text(attribute, 1)
        if 8 in attribute:
            ints[name] = numbers(attribute, 8)
        elif 3 in attribute:
            ints[name] = [number(attribute, 3)]
        elif 4 in attribute:
            names[name] = text(attribute, 4)
    inputs, outputs = ([string(name) for name in messages(found, place)] for place in (1, 2))
    return Node(text(found, 4), inputs, [name for name in outputs if name], ints, names)


def _constant(found: Fields, node: Node, values: Values) -> list[Shape]:
    (tensor,) = (fields(part) for attribute in messages(found, 5) for part in messages(fields(attribute), 5))
    shape = tuple(numbers(tensor, 1))
    if number(tensor, 2) == 7:  # int64
        raw = b"".join(messages(tensor, 9))
        data = np.frombuffer(raw, "<i8") if raw else np.array(numbers(tensor, 7), np.int64)
        if data.size == math.prod(shape) <= LARGEST:
            values.known[node.outputs[0]] = data.reshape(shape)
    return [shape]


def _shapes(node: Node, values: Values) -> list[Shape]:
    """Shapes of a node's outputs, and their integers, where they are known, into `values`."""
    given = [values.shape(name) if name else () for name in node.inputs]
    _follow(node, values)
    if node.kind == "Split":
        return _split(node, values, given[0])
    if node.outputs and node.outputs[0] in values.known:
        return [values.known[node.outputs[0]].shape]
    if node.kind in RULES:
        return [RULES[node.kind](node, values, given)]
    if node.kind in UNARY:
        return [given[0]]
    return [_broadcast(*given)]


UNARY = frozenset({"Cast", "Clip", "Exp", "Identity", "LeakyRelu", "Log", "LogSoftmax", "Neg", "Relu", "Sqrt"}) | {
    "DequantizeLinear",
    "QuantizeLinear",
}
ARITHMETIC: dict[str, Callable[..., np.ndarray]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.floor_divide,
    "Max": np.maximum,
}


def _follow(node: Node, values: Values) -> None:
    """Compute with small integers, of which shapes are made."""
    if node.kind == "Shape":
        shape = values.shape(node.inputs[0])
        end = node.ints["end"][0] if "end" in node.ints else len(shape)
        values.known[node.outputs[0]] = np.array(shape[node.one("start", 0) : end], np.int64)
        return
    if not node.inputs or not all(name in values.known for name in node.inputs if name):
        return
    some = [values.known[name] for name in node.inputs if name]
    if math.prod(max(1, one.size) for one in some) > LARGEST**2:
        return
    made: np.ndarray | None = None
    if node.kind in ("Cast", "Identity"):
        made = some[0]
    elif node.kind == "Concat":
        made = np.concatenate(some, node.one("axis", 0))
    elif node.kind == "Gather":
        made = np.take(some[0], some[1], node.one("axis", 0))
    elif node.kind in ("Squeeze", "Unsqueeze", "Reshape"):
        made = some[0].reshape(RULES[node.kind](node, values, [one.shape for one in some]))
    elif node.kind == "Slice" and some[0].ndim == 1:
        starts, ends, *rest = (values.integers(name) for name in node.inputs[1:] if name)
        step = rest[1][0] if len(rest) > 1 else 1
        made = some[0][slice(starts[0], ends[0], step)]
    elif node.kind in ARITHMETIC and len(some) == 2 and max(one.ndim for one in some) < 2:
        made = ARITHMETIC[node.kind](*some) if node.kind != "Div" or some[1].all() else None
    if made is not None and made.size <= LARGEST:
        values.known[node.outputs[0]] = made


def _broadcast(*shapes: Shape) -> Shape:
    """As numpy's, without its arrays: it is what takes the time."""
    first = shapes[0]
    if all(shape == first for shape in shapes):
        return first
    found = []
    for at in range(-max(map(len, shapes)), 0):
        sizes = {shape[at] for shape in shapes if len(shape) >= -at} - {1}
        if len(sizes) > 1:
            raise ValueError(f"shapes that do not fit: {shapes}")
        found.append(sizes.pop() if sizes else 1)
    return tuple(found)


def _axes(node: Node, values: Values, rank: int) -> list[int] | None:
    if len(node.inputs) > 1 and node.inputs[1]:
        return [axis % rank if rank else axis for axis in values.integers(node.inputs[1])]
    return None


def _reduced(node: Node, values: Values, given: Sequence[Shape]) -> Shape:
    axes = _axes(node, values, len(given[0]))
    if axes is None:
        axes = [] if node.one("noop_with_empty_axes", 0) else list(range(len(given[0])))
    return _without(given[0], axes, node.one("keepdims", 1))


def _without(shape: Shape, axes: Sequence[int], kept: int) -> Shape:
    return tuple(1 if at in axes else size for at, size in enumerate(shape) if kept or at not in axes)


def _argmax(node: Node, _: Values, given: Sequence[Shape]) -> Shape:
    return _without(given[0], [node.one("axis", 0) % len(given[0])], node.one("keepdims", 1))


def _squeezed(node: Node, values: Values, given: Sequence[Shape]) -> Shape:
    axes = _axes(node, values, len(given[0]))
    return tuple(size for at, size in enumerate(given[0]) if (size != 1 if axes is None else at not in axes))


def _unsqueezed(node: Node, values: Values, given: Sequence[Shape]) -> Shape:
    places = values.integers(node.inputs[1])
    rank, sizes = len(given[0]) + len(places), iter(given[0])
    axes = {place % rank for place in places}
    return tuple(1 if at in axes else next(sizes) for at in range(rank))


def _reshaped(node: Node, values: Values, given: Sequence[Shape]) -> Shape:
    asked, whole = values.integers(node.inputs[1]), math.prod(given[0])
    if not node.one("allowzero", 0):
        asked = [given[0][at] if size == 0 else size for at, size in enumerate(asked)]
    rest = math.prod(size for size in asked if size != -1)
    return tuple(whole // rest if size == -1 and rest else size for size in asked)


def _expanded(node: Node, values: Values, given: Sequence[Shape]) -> Shape:
    return _broadcast(given[0], tuple(values.integers(node.inputs[1])))


def _concatenated(node: Node, _: Values, given: Sequence[Shape]) -> Shape:
    axis = node.one("axis", 0) % len(given[0])
    return tuple(sum(one[axis] for one in given) if at == axis else size for at, size in enumerate(given[0]))


def _sliced(node: Node, values: Values, given: Sequence[Shape]) -> Shape:
    parts = [values.integers(name) if name else None for name in node.inputs[1:]]
    starts, ends = parts[0] or [], parts[1] or []
    axes = (parts[2] if len(parts) > 2 else None) or list(range(len(starts)))
    steps = (parts[3] if len(parts) > 3 else None) or [1] * len(starts)
    shape = list(given[0])
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        shape[axis] = len(range(*slice(start, end, step).indices(shape[axis])))
    return tuple(shape)


def _gathered(node: Node, _: Values, given: Sequence[Shape]) -> Shape:
    axis = node.one("axis", 0) % len(given[0])
    return (*given[0][:axis], *given[1], *given[0][axis + 1 :])


def _transposed(node: Node, _: Values, given: Sequence[Shape]) -> Shape:
    return tuple(given[0][at] for at in node.ints.get("perm", range(len(given[0]))[::-1]))


def _multiplied(_: Node, __: Values, given: Sequence[Shape]) -> Shape:
    return (*_broadcast(given[0][:-2], given[1][:-2]), given[0][-2], given[1][-1])


def _gemm(node: Node, _: Values, given: Sequence[Shape]) -> Shape:
    return given[0][node.one("transA", 0)], given[1][1 - node.one("transB", 0)]


def _windows(node: Node, size: Sequence[int], kernel: Sequence[int]) -> Shape:
    if node.names.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise ValueError("padding that is chosen by the engine")
    n = len(size)
    pads, strides = node.ints.get("pads", [0] * 2 * n), node.ints.get("strides", [1] * n)
    if min(strides) < 1:
        raise ValueError("a stride of nothing")
    left = [size[at] + pads[at] + pads[at + n] - kernel[at] for at in range(n)]
    ceil = node.one("ceil_mode", 0)
    return tuple((-(-room // step) if ceil else room // step) + 1 for room, step in zip(left, strides, strict=True))


def _convolved(node: Node, _: Values, given: Sequence[Shape]) -> Shape:
    x, weights = given[0], given[1]
    return (x[0], weights[0], *_windows(node, x[2:], weights[2:]))


def _pooled(node: Node, _: Values, given: Sequence[Shape]) -> Shape:
    return (*given[0][:2], *_windows(node, given[0][2:], node.ints["kernel_shape"]))


def _padded(node: Node, values: Values, given: Sequence[Shape]) -> Shape:
    pads, rank = values.integers(node.inputs[1]), len(given[0])
    return tuple(size + pads[at] + pads[at + rank] for at, size in enumerate(given[0]))


def _split(node: Node, values: Values, given: Shape) -> list[Shape]:
    axis = node.one("axis", 0) % len(given)
    parts = values.integers(node.inputs[1]) if len(node.inputs) > 1 else None
    count = len(node.outputs)
    each = -(-given[axis] // count)
    sizes = parts or [min(each, given[axis] - each * at) for at in range(count)]
    return [(*given[:axis], size, *given[axis + 1 :]) for size in sizes]


RULES: dict[str, Callable[[Node, Values, Sequence[Shape]], Shape]] = {
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), _reduced),
    "ArgMax": _argmax,
    "AveragePool": _pooled,
    "Concat": _concatenated,
    "Conv": _convolved,
    "Expand": _expanded,
    "Gather": _gathered,
    "Gemm": _gemm,
    "MatMul": _multiplied,
    "MaxPool": _pooled,
    "Pad": _padded,
    "Reshape": _reshaped,
    "Slice": _sliced,
    "Squeeze": _squeezed,
    "Transpose": _transposed,
    "Unsqueeze": _unsqueezed,
}
