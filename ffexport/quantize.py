"""fp16 and int8: the tensors and graphs of another precision, and which layers its decisions bear in it.

Convolutions, linear layers, readouts and the classifier are quantized; label patterns, statistics and whatever is
left out stay float32. Names are those of `weights.safetensors`. An int8 weight stands for weight · weight_scale,
with a scale for each output, and has the scale of its layer's input beside it; both are symmetric, their zero point
is 0.
Readouts are float16 in int8, too: what they read is normalised, and single values of it are 36 times the root of
its mean square (unit 3 of recipe `class`), so that 127 steps are too coarse for the others. Measured there, on the
golden images: goodness, which reaches 3.6, is off by up to 0.95 with an int8 readout.

The scale of a layer's input comes from exemplars, and the largest input decides: nothing is clipped. Goodness is a
mean of squares, which large activations dominate, as rare strong features do the classifier. Measured on the
network of recipe `cpu` and 1,000 validation images: with the largest input all decisions by goodness are fp32's,
with the scale of least square error 999, with percentiles 99.99 and 99.9 998 and 996; the classifier's logits are
off by 3, 8, 9 and 8 % of the largest. Class goodness is no such sum, and a unit that batch statistics normalise has
rare large inputs: there the share `WITHIN` of each class's exemplars' values decides. Measured on the golden
images, recipe `class`: unit 2's goodness is off by 0.17 (root mean square) with the largest, 0.10 with 99.99 %,
0.07 with 99.95 %, 0.15 with 99.9 % of them; but on Fashion-MNIST, after two epochs, 99.95 % costs 0.11 points of
10,000 validation images and 99.99 % none.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from typing import TypeAlias

import numpy as np
import onnx
from safetensors.numpy import save

from ffruntime.backend import Graph, load_graph
from ffruntime.core.architecture import Network, class_goodness
from ffruntime.core.bundle import CALIBRATION, Bundle, write_bundle
from ffruntime.core.data import Examples, to_unit_interval
from ffruntime.core.layers import layers, tensors
from ffruntime.core.manifest import WEIGHTS
from ffruntime.core.precision import Precision, in_folder
from ffruntime.model import Model
from ffruntime.session import Session

from .artefacts import bundle_graphs
from .decisions import Progress, Scores, faithful, noise_to_signal, scores
from .inference_graphs import all_graphs
from .onnx_files import Files, graph_bytes, read_places

INT8_LARGEST = 127  # symmetric: −128 is not used
WITHIN = 0.9999  # of a layer's inputs with class goodness; what is larger is clipped

Arrays: TypeAlias = Mapping[str, np.ndarray]  # by name

# ---------------------------------------- tensors and graphs ----------------------------------------


def quantizable_layers(network: Network) -> list[str]:
    """Every layer that can be quantized, from the input up: `unit1.conv1`, …, `head`."""
    return [layer.name for layer in layers(network) if layer.quantizable]


def to_fp16(network: Network, weights: Arrays, quantized: Collection[str]) -> dict[str, np.ndarray]:
    """Weights and biases of the layers `quantized` as float16; the classifier's bias is added in float32."""
    result = dict(weights)
    for tensor in tensors(network):
        if tensor.layer and tensor.layer.name in quantized and not (tensor.of_head and tensor.role == "bias"):
            result[tensor.name] = weights[tensor.name].astype(np.float16)
    return result


def to_int8(network: Network, weights: Arrays, input_scales: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Weights of the layers that `input_scales` names as int8; biases stay float32."""
    result = dict(weights)
    for tensor in tensors(network):
        if tensor.layer and tensor.layer.name in input_scales and tensor.role == "weight":
            weight = weights[tensor.name]  # (out, …)
            largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim)))
            scale = np.where(largest > 0, largest / INT8_LARGEST, 1).astype(np.float32)  # (out,)
            steps = np.rint(weight / scale.reshape(-1, *[1] * (weight.ndim - 1)))
            result[tensor.name] = steps.clip(-INT8_LARGEST, INT8_LARGEST).astype(np.int8)
            result[f"{tensor.name}_scale"] = scale
            result[f"{tensor.layer.name}.input_scale"] = np.array(input_scales[tensor.layer.name], np.float32)
    return result


def precision_files(network: Network, arrays: Arrays, precision: Precision) -> Files:
    """The weights of another precision than fp32, and the inference graphs that name them."""
    data = save(dict(arrays))
    types = {name: array.dtype for name, array in arrays.items() if array.dtype != np.float32}
    graphs = graph_bytes(all_graphs(network, types), read_places(io.BytesIO(data)), precision)
    return {in_folder(WEIGHTS, precision): data, **graphs}


# ---------------------------------------- scales ----------------------------------------


def with_layer_inputs(network: Network, model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[tuple[str, str]]]:
    """The graph with the inputs of every layer as further outputs; each layer with the name of such an output.

    Where steps are unrolled, a layer is there several times.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    layer_of = {t.name: t.layer.name for t in tensors(network) if t.layer and t.role == "weight"}
    nodes = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    taps = [(layer_of[node.input[1]], node.input[0]) for node in nodes]
    present = {output.name for output in model.graph.output}
    for name in sorted({name for _, name in taps} - present):
        result.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return result, taps


def input_scales(scratch: Bundle) -> dict[str, float]:
    """Scale of every layer's input, from what the fp32 graphs make of the exemplars for calibration.

    Each is shown with its label, a wrong and the neutral one, where labels are in the input. Files of no further
    use are left in `scratch`.
    """
    manifest = scratch.manifest
    tapped: list[tuple[Graph, list[str], list[tuple[str, str]]]] = []
    for name, graph in bundle_graphs(manifest, "fp32").items():
        if graph.answers:
            model = onnx.load(scratch.verified(name), load_external_data=False)
            with_taps, taps = with_layer_inputs(manifest.network, model)
            file = scratch.path / f"calibrate-{name}"
            file.write_bytes(with_taps.SerializeToString())
            tapped.append((load_graph(file), [value.name for value in model.graph.input], taps))
    largest: dict[str, float] = {}
    images, classes = scratch.exemplars(CALIBRATION), len(manifest.classes)
    within = WITHIN if class_goodness(manifest.network) else 1.0
    for label in np.unique(images.labels):
        shown = {
            "images": to_unit_interval(images.pixels[images.labels == label]),
            "labels": np.array([label, (label + 1) % classes]),
        }
        for run, takes, taps in tapped:
            outputs = run({name: shown[name] for name in takes})
            for layer, output in taps:
                largest[layer] = max(largest.get(layer, 0.0), float(np.quantile(np.abs(outputs[output]), within)))
    return {layer: (value or 1.0) / INT8_LARGEST for layer, value in largest.items()}


# ---------------------------------------- which layers ----------------------------------------


def quantize(
    scratch: Bundle, precision: Precision, exemplars: Examples, reference: Scores, backend: str, progress: Progress
) -> Files:
    """The files of a precision, with as many layers quantized as decisions on the exemplars bear.

    All are at first; where that costs decisions, those of the largest noise-to-signal ratio go back to fp32, one
    after the other. `scratch` is a bundle with fp32 graphs, to which every attempt is written; `reference` holds
    fp32's scores of the exemplars.
    """
    network, weights = scratch.manifest.network, scratch.weights()
    scales: dict[str, float] = {}
    if precision == "int8":
        progress("int8: calibration", 0)
        scales = input_scales(scratch)

    def attempt(quantized: Collection[str]) -> tuple[Files, Scores]:
        if precision == "fp16":
            arrays = to_fp16(network, weights, quantized)
        else:
            read = [layer.name for layer in layers(network) if layer.readout and layer.name in quantized]
            coarse = {layer: scales[layer] for layer in quantized if layer not in read}
            arrays = to_fp16(network, to_int8(network, weights, coarse), read)
        files = precision_files(network, arrays, precision)
        written = write_bundle(scratch.path, scratch.manifest, files)
        model = Model(written, session=Session(backend, precision))
        return files, scores(model, exemplars, progress, f"{len(quantized)} layers, exemplars")

    def unfaithful(ours: Scores) -> Scores:
        labels = exemplars.labels
        return {m: fp32 for m, fp32 in reference.items() if not faithful(ours[m], fp32, labels, precision)}

    quantized = quantizable_layers(network)
    files, ours = attempt(quantized)
    if failing := unfaithful(ours):
        noise = {layer: noise_to_signal(attempt([layer])[1], failing) for layer in quantized}
        for layer in sorted(quantized, key=lambda layer: noise[layer], reverse=True):
            quantized.remove(layer)
            files, ours = attempt(quantized)
            if not unfaithful(ours):
                break
    return files
