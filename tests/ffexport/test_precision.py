"""fp16 and int8: precision in the graphs' types, decisions as in fp32, layers left out where that needs it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto
from safetensors.numpy import load_file, save

from ffexport import quantize
from ffexport.artefacts import ExportReport
from ffexport.decisions import compare, faithful, noise_to_signal, validation_images
from ffexport.export import export_onnx
from ffexport.quantize import input_scales, quantizable_layers, to_fp16, to_int8
from ffruntime.core.architecture import Conv, Image, Input, Label, Network, Relu, Unit
from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.data import data_directory, permutation
from ffruntime.core.errors import BundleError, UsageError
from ffruntime.core.layers import tensor_shapes
from ffruntime.core.manifest import EXEMPLARS
from ffruntime.core.precision import Precision
from ffruntime.golden import TOLERANCES, check
from ffruntime.model import Model
from ffruntime.session import Session
from fftrain.run import Run

LAYERS = ("unit1.conv1", "unit2.conv1", "unit3.linear1")
Lowered: TypeAlias = tuple[Path, ExportReport]
LOWER: tuple[Precision, ...] = ("fp16", "int8")
# Documented for TensorRT 10 and 11 and TensorRT-RTX, in these types (onnx-tensorrt, operators.md).
OF_PRECISION = {"fp16": {"Cast"}, "int8": {"QuantizeLinear", "DequantizeLinear"}}


@pytest.fixture(scope="module")
def lowered(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    """The trained bundle in every precision."""
    path = Path(shutil.copytree(exported, tmp_path_factory.mktemp("lowered") / "model.ff"))
    return path, export_onnx(path, LOWER)


def roughly_faithful(ours: np.ndarray, reference: np.ndarray, *_: object) -> bool:
    """In place of `faithful`, which a network just trained may narrowly miss: 98 % agree, or hardly any."""
    return float(np.mean(ours.argmax(1) == reference.argmax(1))) > 0.8


@pytest.fixture(scope="module")
def whole(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle with every layer in int8, whatever few decisions that costs, and a part of the exemplars."""
    path = Path(shutil.copytree(exported, tmp_path_factory.mktemp("whole") / "model.ff"))
    some = {name: array[::5] for name, array in Bundle(path).tensors(EXEMPLARS).items()}
    write_bundle(path, Bundle(path).manifest, {EXEMPLARS: save(some)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize, "faithful", roughly_faithful)
        export_onnx(path, LOWER)
    return path


def graph(path: Path, name: str) -> onnx.ModelProto:
    return onnx.load(path / name, load_external_data=False)


@pytest.mark.slow
@pytest.mark.parametrize("precision", LOWER)
def test_graphs_are_valid_and_take_what_fp32_takes(precision: Precision, whole: Path) -> None:
    for name in ("unit1.onnx", "unit2.onnx", "unit3.onnx", "goodness.onnx", "classifier.onnx"):
        onnx.checker.check_model(str(whole / precision / name), full_check=True)
        ours, fp32 = graph(whole, f"{precision}/{name}"), graph(whole, name)
        for mine, theirs in zip(
            [*ours.graph.input, *ours.graph.output], [*fp32.graph.input, *fp32.graph.output], strict=True
        ):
            assert mine == theirs
        added = {node.op_type for node in ours.graph.node} - {node.op_type for node in fp32.graph.node}
        assert added == OF_PRECISION[precision]
        assert [(entry.domain, entry.version) for entry in ours.opset_import] == [("", 18)]


@pytest.mark.slow
def test_fp16_is_in_the_types(whole: Path) -> None:
    types = {t.name: t.data_type for t in graph(whole, "fp16/classifier.onnx").graph.initializer}
    assert {name for name, kind in types.items() if kind == TensorProto.FLOAT16} == {
        *(f"{layer}.{what}" for layer in LAYERS for what in ("weight", "bias")),
        "head.weight",
    }
    squares = [n for n in graph(whole, "fp16/goodness.onnx").graph.node if n.op_type == "Mul"]
    inferred = onnx.shape_inference.infer_shapes(graph(whole, "fp16/goodness.onnx"))
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    assert squares
    assert all(kinds[node.output[0]] == TensorProto.FLOAT for node in squares)  # cast before it is squared


@pytest.mark.slow
def test_int8_is_symmetric_and_feeds_every_layer(whole: Path) -> None:
    model = graph(whole, "int8/classifier.onnx").graph
    makers = {node.output[0]: node for node in model.node}
    types = {tensor.name: tensor.data_type for tensor in model.initializer}
    for node in model.node:
        if node.op_type in ("Conv", "Gemm"):
            x, weight = makers[node.input[0]], makers[node.input[1]]
            assert x.op_type == weight.op_type == "DequantizeLinear"
            assert makers[x.input[0]].op_type == "QuantizeLinear"
            assert types[weight.input[0]] == TensorProto.INT8
            assert types[weight.input[1]] == types[x.input[1]] == TensorProto.FLOAT  # scales
            zero = onnx.numpy_helper.to_array(makers[x.input[2]].attribute[0].t)
            assert zero.dtype == np.int8
            assert not zero.any()


@pytest.mark.slow
def test_files_are_smaller_and_complete(whole: Path) -> None:
    sizes = {name: (whole / name / "weights.safetensors").stat().st_size for name in (".", *LOWER)}
    patterns = 4 * 12 * 28 * 28  # label patterns stay float32
    assert sizes["fp16"] < 0.55 * (sizes["."] - patterns) + patterns
    assert sizes["int8"] < 0.35 * (sizes["."] - patterns) + patterns
    names = tensor_shapes(Bundle(whole).manifest.network).keys()
    assert load_file(whole / "fp16" / "weights.safetensors").keys() == names
    assert names < load_file(whole / "int8" / "weights.safetensors").keys()


@pytest.mark.slow
@pytest.mark.parametrize("precision", LOWER)
def test_golden_values_are_reproduced(precision: Precision, lowered: Lowered) -> None:
    rows = check(Model(lowered[0], session=Session(precision=precision)))
    assert all(row.passed and row.precision == precision for row in rows)
    assert max(row.relative for row in rows) < TOLERANCES[precision] / 2


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "lost", "differ"), [("fp16", 1, 1), ("int8", 2, 12)])
def test_decisions_on_validation_images_are_fp32s(
    precision: Precision, lost: int, differ: int, lowered: Lowered, trained_run: Run
) -> None:
    """Of 400 images that no layer was chosen by."""
    validation = trained_run.dataset.validation
    pixels, labels = validation.pixels[:400].numpy(), validation.labels[:400].numpy()
    for mode in ("goodness", "classifier"):
        ours, reference = (
            Model(lowered[0], session=Session(precision=p)).scores(pixels, mode) for p in (precision, "fp32")
        )
        outcome, before = compare(ours, reference, labels), compare(reference, reference, labels)
        assert before.right - outcome.right <= lost
        assert outcome.images - outcome.agree <= differ


@pytest.mark.slow
def test_the_table_says_what_every_precision_costs(lowered: Lowered) -> None:
    rows = {row.artefact: row for row in lowered[1].artefacts}
    for name in ("goodness.onnx", "fp16/goodness.onnx", "int8/classifier.onnx"):
        row = rows[name]
        assert row.verdict == "ok"
        assert row.decisions == 500
        assert row.agree is not None
        assert row.agree >= 495
        assert row.exemplars is not None
        assert row.exemplars > 0.8
        assert row.validation is None  # no data directory was given
    assert rows["int8/unit2.onnx"].exemplars is None
    assert rows["int8/weights.safetensors"].size == (lowered[0] / "int8" / "weights.safetensors").stat().st_size


@pytest.mark.slow
def test_a_layer_that_int8_ruins_stays_in_fp32(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unit 2's input rounded to nothing at all: that layer is left out, the others are int8."""
    ruin = {"unit2.conv1": 1e6}
    monkeypatch.setattr(quantize, "faithful", roughly_faithful)
    monkeypatch.setattr(quantize, "input_scales", lambda *arguments: input_scales(*arguments) | ruin)
    report = export_onnx(bundle, ("int8",))
    row = next(row for row in report.artefacts if row.artefact == "int8/weights.safetensors")
    assert row.verdict == "ok, in fp32: unit2.conv1"
    weights = load_file(bundle / "int8" / "weights.safetensors")
    layers = quantizable_layers(Bundle(bundle).manifest.network)
    kinds = {layer: weights[f"{layer}.weight"].dtype for layer in layers}
    assert {layer for layer, kind in kinds.items() if kind == np.int8} == {*LAYERS, "head"} - {"unit2.conv1"}
    assert all(row.passed for row in report.checks)


@given(st.integers(1, 5), st.floats(1e-6, 1e3), st.integers(0, 2**32 - 1))
def test_int8_weights_are_off_by_half_a_step(outputs: int, size: float, seed: int) -> None:
    weight = np.random.default_rng(seed).normal(0, size, (outputs, 3, 2, 2)).astype(np.float32)
    weight[0] = 0  # a dead output
    network = Network(Image((3, 2, 2)), Label("add", 1), (Unit((Conv(outputs, 2), Relu())),))
    tensors = to_int8(network, {"unit1.conv1.weight": weight}, {"unit1.conv1": 0.5})
    scale = tensors["unit1.conv1.weight_scale"]
    assert tensors["unit1.conv1.input_scale"] == np.float32(0.5)
    assert (scale > 0).all()
    back = tensors["unit1.conv1.weight"].astype(np.float32) * scale[:, None, None, None]
    assert (np.abs(back - weight) <= 0.501 * scale[:, None, None, None]).all()


def test_fp16_keeps_statistics_patterns_and_the_heads_bias() -> None:
    names = ("unit1.conv1.weight", "unit1.conv1.bias", "unit1.below.mean", "labels.patterns", "head.bias")
    units = (Unit((Conv(1, 3), Relu()), (Input(normalise="batch"),)),)
    network = Network(Image((1, 4, 4)), Label("add", 2), units)
    weights = {name: np.ones(2, np.float32) for name in tensor_shapes(network)}
    tensors = to_fp16(network, weights, ["unit1.conv1", "head"])
    assert [tensors[name].dtype.itemsize for name in names] == [2, 2, 4, 4, 4]


def test_what_is_not_finite_is_not_faithful() -> None:
    reference = np.eye(4, dtype=np.float32)
    overflown = np.where(reference > 0, np.nan, 0)
    assert faithful(reference, reference, np.arange(4), "fp16")
    assert not faithful(overflown, reference, np.arange(4), "fp16")
    assert noise_to_signal({"goodness": overflown}, {"goodness": reference}) == np.inf


def test_precisions_that_are_not_there(exported: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'int8'"):
        Model(exported, session=Session(precision="int9"))
    with pytest.raises(BundleError, match=r"holds no int8/goodness.onnx; .*ffexport --model .* --precision int8"):
        Model(exported, session=Session(precision="int8")).graph("goodness")


@pytest.mark.parametrize("seed", [0, 20231222])
def test_the_permutation_is_torchs(seed: int) -> None:
    expected = torch.randperm(1000, generator=torch.Generator().manual_seed(seed)).numpy()
    assert np.array_equal(permutation(1000, seed), expected)


def test_validation_images_are_the_trainers(exported: Path, trained_run: Run, tmp_path: Path) -> None:
    manifest = Bundle(exported).manifest
    exemplars = Bundle(exported).exemplars()
    assert validation_images(manifest, exemplars, tmp_path) is None
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz"):  # damaged: as if it were not there
        (tmp_path / "MNIST" / "raw" / name).write_bytes(b"\0\0\x08\x03nonsense")
    assert validation_images(manifest, exemplars, tmp_path) is None
    if manifest.training.data.offline_sample:
        pytest.skip("MNIST is not at hand")
    images = validation_images(manifest, exemplars, data_directory(None))
    assert images is not None
    validation = trained_run.dataset.validation
    assert np.array_equal(images.pixels, validation.pixels.numpy())
    assert np.array_equal(images.labels, validation.labels.numpy())
