"""The ONNX graphs: valid, plain, and equal to torch."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch

from ffexport.export import CHECKS, export_onnx
from ffexport.external import tensor_places, use_external_weights
from ffexport.graphs import all_graphs
from ffruntime import bundle as bundles
from ffruntime.architecture import parameter_shapes
from ffruntime.bundle import WEIGHTS, read_manifest, verified
from ffruntime.errors import ParityError
from ffruntime.golden import check
from ffruntime.model import Model
from fftrain import network as net
from fftrain.data import Dataset
from fftrain.evaluate import goodness_scores
from fftrain.pack import write_bundle
from fftrain.recipe import Recipe, load_recipe, recipe_names, with_epochs
from fftrain.train import Run, start

# Documented for ONNX Runtime, TensorRT 10 and 11 and TensorRT-RTX alike (onnx-tensorrt, operators.md).
SUPPORTED = {
    "Add",
    "Clip",
    "Concat",
    "Constant",
    "Conv",
    "Div",
    "Expand",
    "Gather",
    "Gemm",
    "Identity",
    "Log",
    "MaxPool",
    "Mul",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "Relu",
    "Reshape",
    "Shape",
    "Sqrt",
    "Sub",
    "Sum",
    "Unsqueeze",
}


def narrowed(recipe: Recipe, width: int) -> Recipe:
    """The recipe with so many channels in every convolution."""
    plain = msgspec.to_builtins(recipe)
    for unit in plain["network"]["units"]:
        unit["ops"] = [op | {"out": width} if op["op"] == "conv" else op for op in unit["ops"]]
    return msgspec.convert(plain, Recipe)


@pytest.fixture(scope="module", params=["tiny", *recipe_names()])
def untrained(
    request: pytest.FixtureRequest, dataset: Dataset, tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, Path]:
    """An untrained network of every recipe, exported. The paper's is narrowed: only its shapes would be larger."""
    recipe = with_epochs(tiny_recipe if request.param == "tiny" else load_recipe(request.param), 0)
    if request.param == "paper":
        recipe = narrowed(recipe, 16)
    run = start(recipe, dataset, 0, torch.device("cpu"), torch.float32)
    path = tmp_path_factory.mktemp(request.param) / "model.ff"
    write_bundle(path, run, request.param, "cpu", "fp32", {})
    export_onnx(path)
    return run, path


def test_every_recipe_reproduces_its_golden_vectors(untrained: tuple[Run, Path]) -> None:
    rows = check(Model(untrained[1]))
    assert len(rows) == 2 * len(untrained[0].network.units) + 2
    assert all(row.passed for row in rows), rows


def test_graphs_are_valid_and_plain(untrained: tuple[Run, Path]) -> None:
    path = untrained[1]
    for file in path.glob("*.onnx"):
        onnx.checker.check_model(str(file), full_check=True)
        model = onnx.load(file, load_external_data=False)
        assert {node.op_type for node in model.graph.node} <= SUPPORTED
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
        assert model.ir_version <= 10
        assert file.stat().st_size < 20_000
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        assert all(output.type.tensor_type.HasField("shape") for output in inferred.graph.output)


def test_weights_lie_in_the_safetensors_file_under_their_names(untrained: tuple[Run, Path]) -> None:
    run, path = untrained
    stored = (path / WEIGHTS).read_bytes()
    used = set()
    for file in path.glob("*.onnx"):
        for tensor in onnx.load(file, load_external_data=False).graph.initializer:
            place = {entry.key: entry.value for entry in tensor.external_data}
            assert place["location"] == WEIGHTS
            start_at, length = int(place["offset"]), int(place["length"])
            array = np.frombuffer(stored[start_at : start_at + length], np.float32).reshape(tensor.dims)
            assert np.array_equal(array, run.tensors[tensor.name].detach().numpy())
            used.add(tensor.name)
    assert used == parameter_shapes(run.network).keys()


def test_exporting_twice_gives_the_same_bytes(untrained: tuple[Run, Path]) -> None:
    path = untrained[1]
    before = read_manifest(path).files
    export_onnx(path)
    assert read_manifest(path).files == before


def test_labels_are_an_input(exported: Path, trained_run: Run) -> None:
    """Ten labels, a shortlist of three in any order, or all twelve patterns: the same graph."""
    graph = Model(exported).graph("goodness")
    images = trained_run.dataset.validation.pixels[:5].numpy().astype(np.float32) / 255
    everything = graph({"images": images, "labels": np.arange(12)})
    shortlist = graph({"images": images, "labels": np.array([7, 1, 11])})
    assert everything["goodness"].shape == (5, 12, 3)
    np.testing.assert_allclose(shortlist["goodness"], everything["goodness"][:, [7, 1, 11]], rtol=1e-5)
    np.testing.assert_allclose(shortlist["total"], everything["total"][:, [7, 1, 11]], rtol=1e-5)


def test_decisions_on_all_validation_images_are_torchs(exported: Path, trained_run: Run) -> None:
    """Equal but for ties within 1e-5 of the goodness, which are counted."""
    pixels = trained_run.dataset.validation.pixels
    ours = Model(exported).scores(pixels.numpy())
    theirs = goodness_scores(trained_run.network, trained_run.tensors, pixels, 10).numpy()
    differ = np.flatnonzero(ours.argmax(1) != theirs.argmax(1))
    gap = np.abs(theirs[differ, ours[differ].argmax(1)] - theirs[differ].max(1))
    assert (gap <= 1e-5 * np.abs(theirs[differ]).max(1, initial=0)).all()
    print(f"{len(differ)} ties among {len(pixels)} decisions")


def test_a_dead_image_is_no_nan(exported: Path) -> None:
    graph = Model(exported).graph("goodness")
    outputs = graph({"images": np.zeros((1, 1, 28, 28), np.float32), "labels": np.arange(10)})
    assert all(np.isfinite(value).all() for value in outputs.values())


def test_weights_that_are_not_the_golden_ones_are_refused(bundle: Path) -> None:
    """Another network's weights, vouched for by the manifest: the golden check finds out."""
    from safetensors.numpy import load_file, save

    manifest = read_manifest(bundle)
    tensors = load_file(verified(bundle, manifest, WEIGHTS))
    tensors["unit2.conv1.bias"] = tensors["unit2.conv1.bias"] + 0.01
    manifest = bundles.write(bundle, manifest, {WEIGHTS: save(tensors)})
    before = {file.name: file.read_bytes() for file in bundle.iterdir()}
    with pytest.raises(ParityError, match="do not trust"):
        export_onnx(bundle)
    assert {file.name: file.read_bytes() for file in bundle.iterdir()} == before


def test_the_golden_table_is_kept(exported: Path) -> None:
    import json

    report = json.loads((exported / CHECKS).read_text())
    assert report["backend"] == "onnxruntime-cpu"
    assert len(report["checks"]) == 8


def test_golden_gradient_is_the_gradient(exported: Path, trained_run: Run) -> None:
    """Recomputed in float64 by autograd from the bundle's own weights."""
    from fftrain.pack import golden_gradient

    manifest = read_manifest(exported)
    golden = {n: torch.from_numpy(t) for n, t in bundles.read_tensors(exported, manifest, bundles.GOLDEN).items()}
    weights = bundles.read_weights(exported, manifest)
    tensors = {name: torch.from_numpy(tensor).double() for name, tensor in weights.items()}
    images = net.to_images(golden["images"], manifest.network, torch.float64)
    labels = torch.cat([golden["labels"], golden["negatives"]])
    assert (golden["labels"] != golden["negatives"]).all()
    again = golden_gradient(manifest.network, tensors, 0, images, labels, trained_run.recipe.loss)
    assert set(again) == {"unit1.conv1.weight", "unit1.conv1.bias"}
    for name, gradient in again.items():
        torch.testing.assert_close(golden[f"gradient.{name}"], gradient.float())


def test_external_places_are_those_of_the_format(exported: Path) -> None:
    places = tensor_places(exported / WEIGHTS)
    ends = sorted(places.values())
    assert ends[-1][0] + ends[-1][1] == (exported / WEIGHTS).stat().st_size
    model = all_graphs(read_manifest(exported).network)["classifier"]
    assert [value.name for value in use_external_weights(model, places).graph.input] == ["images"]
