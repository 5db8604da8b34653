"""Graphs that are whole and not ours are refused before an engine sees them: none is run, none takes memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from shapes import BUNDLE, CLASS_BUNDLE

from ffruntime import Model
from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.errors import BundleError
from ffruntime.core.graphs import graphs
from ffruntime.graph_check import check_graph

HUGE = 10**9


def constant(name: str, values: object) -> onnx.NodeProto:
    array = np.asarray(values, np.int64)
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))


def prepend(model: onnx.ModelProto, *nodes: onnx.NodeProto) -> None:
    old = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *old])


def loop(model: onnx.ModelProto) -> None:
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    number = helper.make_tensor_value_info("n", TensorProto.INT64, [])
    out = helper.make_tensor_value_info("d", TensorProto.BOOL, [])
    body = helper.make_graph([helper.make_node("Identity", ["c"], ["d"])], "body", [number, condition], [out])
    prepend(model, constant("count", HUGE), helper.make_node("Loop", ["count", ""], [], body=body))


def functions(model: onnx.ModelProto) -> None:
    twice = helper.make_node("Add", ["x", "x"], ["y"])
    model.functions.append(helper.make_function("own", "F", ["x"], ["y"], [twice], model.opset_import))


def external(model: onnx.ModelProto) -> None:
    for entry in model.graph.initializer[0].external_data:
        entry.value = entry.value.replace("weights.safetensors", "../secret")


def chain(operator: str, *more: str, times: int = 40, **attributes: object) -> Callable[[onnx.ModelProto], object]:
    """An operator that doubles what it is given, again and again; `more`: its other inputs, `x` being the same."""

    def change(model: onnx.ModelProto) -> None:
        values = ["images", *(f"z{number}" for number in range(times))]
        nodes = [
            helper.make_node(operator, [x, *(x if name == "x" else name for name in more)], [y], **attributes)
            for x, y in pairwise(values)
        ]
        pads, indices = constant("pads", [0, 0, 60, 60, 0, 0, 60, 60]), constant("indices", [[0] * 4] * 4)
        prepend(model, pads, indices, *nodes)

    return change


def outer(model: onnx.ModelProto) -> None:
    """Each value times itself, along axes of its own: it grows with the square of the images."""
    nodes = [constant("flat", [-1, 1])]
    for number in range(6):
        x = f"y{number - 1}" if number else "images"
        nodes += [
            helper.make_node("Reshape", [x, "flat"], [f"a{number}"]),
            helper.make_node("Transpose", [f"a{number}"], [f"b{number}"]),
            helper.make_node("Mul", [f"a{number}", f"b{number}"], [f"y{number}"]),
        ]
    prepend(model, *nodes)


HARM: dict[str, Callable[[onnx.ModelProto], object]] = {
    "an output less": lambda m: m.graph.output.pop(),
    "Loop": loop,
    "functions": functions,
    "many nodes": lambda m: m.graph.node.extend([helper.make_node("Relu", ["images"], ["z"])] * 60_000),
    "opset 17": lambda m: setattr(m.opset_import[0], "version", 17),
    "another domain": lambda m: m.opset_import.append(helper.make_opsetid("com.microsoft", 1)),
    "IR version": lambda m: setattr(m, "ir_version", 11),
    "ConstantOfShape": lambda m: prepend(m, helper.make_node("ConstantOfShape", ["labels"], ["z"])),
    "Tile": lambda m: prepend(m, constant("s", [HUGE]), helper.make_node("Tile", ["images", "s"], ["z"])),
    "Range": lambda m: prepend(m, helper.make_node("Range", ["labels", "labels", "labels"], ["z"])),
    "Resize": lambda m: prepend(m, helper.make_node("Resize", ["images"], ["z"])),
    "Expand": lambda m: prepend(m, constant("s", [HUGE]), helper.make_node("Expand", ["images", "s"], ["z"])),
    "Expand by parts": lambda m: prepend(
        m,
        constant("s", [1 << 15]),
        constant("t", [1 << 15]),
        helper.make_node("Concat", ["s", "t"], ["u"], axis=0),
        helper.make_node("Expand", ["images", "u"], ["z"]),
    ),
    "Expand by a product": lambda m: prepend(
        m,
        constant("s", [1 << 15]),
        helper.make_node("Mul", ["s", "s"], ["u"]),
        helper.make_node("Expand", ["images", "u"], ["z"]),
    ),
    "Pad": lambda m: prepend(m, constant("s", [HUGE] * 8), helper.make_node("Pad", ["images", "s"], ["z"])),
    "Pad by an input": lambda m: prepend(m, helper.make_node("Pad", ["images", "labels"], ["z"])),
    "Concat that doubles": chain("Concat", "x", axis=1),
    "Pad after Pad": chain("Pad", "pads", times=400),
    "Gather that repeats": chain("Gather", "indices", axis=2),
    "outer products": outer,
    "a value that comes later": lambda m: prepend(m, helper.make_node("Relu", ["total"], ["z"])),
    "a Reshape by an input": lambda m: prepend(m, helper.make_node("Reshape", ["images", "labels"], ["z"])),
    "an attribute": lambda m: prepend(m, helper.make_node("Conv", ["images", "images"], ["z"], dilations=[2, 2])),
    "an attribute out of bounds": lambda m: prepend(
        m, helper.make_node("Conv", ["images", "images"], ["z"], pads=[HUGE] * 4)
    ),
    "a large constant": lambda m: prepend(m, constant("z", np.zeros(100_000))),
    "weights elsewhere": external,
    "weights inside": lambda m: m.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "w")),
    "no graph": lambda m: m.ClearField("graph"),
}


@pytest.mark.slow
@pytest.mark.parametrize("harm", HARM)
def test_a_graph_that_is_not_ours_is_refused(harm: str, tmp_path: Path) -> None:
    path = Path(shutil.copytree(BUNDLE, tmp_path / "model.ff"))
    graph = onnx.load(path / "goodness.onnx", load_external_data=False)
    HARM[harm](graph)
    written = write_bundle(path, Bundle(path).manifest, {"goodness.onnx": graph.SerializeToString()})
    with pytest.raises(BundleError, match=r"goodness\.onnx: no graph of a bundle: .*export it again") as caught:
        Model(written, state=False).graph("goodness")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["goodness", "classifier"])
def test_another_graph_of_the_bundle_in_its_place_is_refused(name: str, tmp_path: Path) -> None:
    path = Path(shutil.copytree(BUNDLE, tmp_path / "model.ff"))
    written = write_bundle(path, Bundle(path).manifest, {f"{name}.onnx": (path / "unit1.onnx").read_bytes()})
    with pytest.raises(BundleError, match="no graph of a bundle: it has no output"):
        Model(written, state=False).graph(name)


def test_an_output_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = Path(shutil.copytree(BUNDLE, tmp_path / "model.ff"))
    graph = onnx.load(path / "goodness.onnx", load_external_data=False)
    for node in graph.graph.node:
        node.output[:] = ["before" if name == "total" else name for name in node.output]
    graph.graph.node.append(helper.make_node("Concat", ["before", "before"], ["total"], axis=1))
    written = write_bundle(path, Bundle(path).manifest, {"goodness.onnx": graph.SerializeToString()})
    with pytest.raises(BundleError, match=r"its output 'total' is \(1, 12\), not \(1, 6\)"):
        Model(written, state=False).classify_batch(written.some_images()[:1])


@pytest.mark.parametrize("source", [BUNDLE, CLASS_BUNDLE])
def test_every_graph_of_a_bundle_passes_and_no_mutation_does_more_than_be_refused(source: Path) -> None:
    bundle, rng = Bundle(source), np.random.default_rng(0)
    known = graphs(bundle.manifest.network)
    for name in (name for name in bundle.manifest.files if name.endswith(".onnx")):
        data, graph = bundle.read(name), known[Path(name).stem]
        check_graph(Path(name), data, bundle.manifest.network, graph)
        for _ in range(40):
            changed = bytearray(data[: rng.integers(1, len(data) + 1)])
            for place in rng.integers(0, len(changed), rng.integers(1, 4)):
                changed[place] = rng.integers(256)
            try:
                check_graph(Path(name), bytes(changed), bundle.manifest.network, graph)
            except BundleError as error:
                assert str(error).isprintable()  # noqa: PT017
