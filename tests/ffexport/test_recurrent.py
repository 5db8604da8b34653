"""Recurrent networks as graphs: unrolled steps, unit by unit, in every precision, as engines."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from msgspec import structs

from ffexport.export import export_onnx
from ffexport.inference_graphs import goodness_graph
from ffexport.quantize import quantizable_layers, with_layer_inputs
from ffruntime import golden
from ffruntime.core.architecture import Conv, Image, Input, Label, Linear, Network, Relu, Steps, Unit, validate
from ffruntime.core.bundle import Bundle
from ffruntime.core.cost import pass_macs, unit_macs
from ffruntime.core.data import Examples, to_unit_interval
from ffruntime.core.errors import BackendError
from ffruntime.core.tables import manifest_text
from ffruntime.model import Model
from ffruntime.session import Session
from fftrain import network as net
from fftrain.dataset import Dataset
from fftrain.figures import training_macs
from fftrain.pack import pack_run
from fftrain.recipe import load_recipe, with_epochs
from fftrain.run import Run, start, train

LAYERS = [
    "unit1.below.linear1",
    "unit1.above.linear1",
    "unit1.self.linear1",
    "unit2.below.linear1",
    "unit2.above.linear1",
    "unit2.self.linear1",
]
WIDE, PIXELS = 16, 784


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`hinton-recurrent` with 16 neurons in a layer, after an epoch of 1,000 images."""
    recipe = with_epochs(load_recipe("hinton-recurrent", [("network.units.*.inputs.*.ops.0.out", WIDE)]), 1)
    few = Examples(dataset.train.pixels[:1000], dataset.train.labels[:1000])
    run = start(recipe, structs.replace(dataset, train=few), 0, torch.device("cpu"), torch.float32)
    list(train(run, tmp_path_factory.mktemp("recurrent") / "model.ff", resume=False, stop=lambda: False))
    return run


@pytest.fixture(scope="module")
def recurrent(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recurrent") / "model.ff"
    pack_run(path, run, "hinton-recurrent", "cpu", "fp32", {})
    export_onnx(path)
    return path


@pytest.mark.slow
def test_it_is_proven(recurrent: Path) -> None:
    golden.require(golden.check(Model(recurrent, state=False)), "onnxruntime-cpu")
    assert not [name for name in Bundle(recurrent).manifest.files if "gradient" in name]


@pytest.mark.slow
def test_it_is_proven_in_lower_precisions(recurrent: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(recurrent, tmp_path / "model.ff"))
    export_onnx(path, ("fp16", "int8"))
    for precision in ("fp16", "int8"):
        lower = Model(path, session=Session(precision=precision), state=False)  # type: ignore[arg-type]
        golden.require(golden.check(lower), "onnxruntime-cpu")


@pytest.mark.slow
def test_labels_in_any_order_and_some_of_them(run: Run, recurrent: Path) -> None:
    pixels = run.dataset.validation.pixels[:5]
    labels = np.array([7, 0, 7])
    outputs = Model(recurrent, state=False).graph("goodness")(
        {"images": to_unit_interval(pixels.numpy()), "labels": labels}
    )
    images = net.to_images(pixels, run.network, torch.float32)
    expected = net.label_goodness(run.network, run.tensors, images, torch.from_numpy(labels))
    np.testing.assert_allclose(outputs["goodness"], expected.numpy(), rtol=1e-4)
    np.testing.assert_allclose(outputs["total"], expected.sum(-1).numpy(), rtol=1e-4)


@pytest.mark.slow
def test_the_label_changes_goodness_and_not_the_classifier(run: Run) -> None:
    images = net.to_images(run.dataset.validation.pixels[:3], run.network, torch.float32)
    goodness = net.label_goodness(run.network, run.tensors, images, torch.arange(10))
    assert goodness.std(dim=1).min() > 0
    other = {**run.tensors, "labels.neutral": torch.rand(10)}
    for tensors in (other, {**other, "unit2.above.linear1.weight": torch.zeros(WIDE, 10)}):
        assert torch.equal(*(net.classify_linear(run.network, t, images)[1] for t in (run.tensors, tensors)))


@pytest.mark.slow
def test_what_never_changes_is_computed_once(recurrent: Path) -> None:
    """Of five steps: each layer at every step, but the image's and the label's once; first a pass from below."""
    model = onnx.load(recurrent / "goodness.onnx", load_external_data=False)
    _, taps = with_layer_inputs(Bundle(recurrent).manifest.network, model)
    calls = {layer: [name for name, _ in taps].count(layer) for layer in LAYERS}
    assert calls["unit1.below.linear1"] <= 2
    assert calls["unit2.above.linear1"] == 1
    assert calls["unit2.below.linear1"] == 1 + 5
    assert all(calls[layer] == 5 for layer in ("unit1.above.linear1", "unit1.self.linear1", "unit2.self.linear1"))
    assert {name for name, _ in taps} == set(LAYERS)


def test_inputs_of_other_shapes_are_added_in_c_order() -> None:
    """An input from `self` of (8, 4, 4) and one from `above` of (128), to one from `below` of (2, 8, 8)."""
    inputs = (
        Input("below", ops=(Conv(2, 3, padding=1),)),
        Input("self", ops=(Conv(8, 2, stride=2),)),
        Input("above", ops=(Linear(128),)),
    )
    label, steps, random = Label("top", 10, 10), Steps(3, 0.3, (2, 3)), torch.Generator().manual_seed(0)
    network = Network(Image((2, 8, 8)), label, (Unit((Relu(),), inputs),), steps=steps)
    validate(network)
    patterns = {"labels.patterns": torch.eye(10), "labels.neutral": torch.full((10,), 0.1)}
    tensors, images = net.initialise(network, patterns, random), torch.rand(5, 2, 8, 8, generator=random)
    session = onnxruntime.InferenceSession(goodness_graph(network).SerializeToString())
    weights = {one.name: tensors[one.name].numpy() for one in session.get_inputs() if one.name in tensors}
    given = {**weights, "images": images.numpy(), "labels": np.arange(10)}
    (goodness,) = session.run(["goodness"], given)
    expected = net.label_goodness(network, tensors, images, torch.arange(10))
    np.testing.assert_allclose(goodness, expected.numpy(), rtol=1e-4)


@pytest.mark.slow
def test_info_says_how_it_runs(recurrent: Path) -> None:
    manifest = Bundle(recurrent).manifest
    assert "8 synchronous steps, 30 % of an activity kept, goodness of steps 3 to 5\n" in manifest_text(
        recurrent, manifest
    )
    low = structs.replace(manifest, network=structs.replace(manifest.network, goodness="low"))
    assert "goodness of steps 3 to 5, goodness low for right labels\n" in manifest_text(recurrent, low)


@pytest.mark.slow
def test_every_layer_can_be_lowered_and_is_counted(run: Run) -> None:
    assert quantizable_layers(run.network) == [*LAYERS, "head"]
    first, second, image, label = 2 * WIDE * WIDE, 2 * WIDE * WIDE, WIDE * PIXELS, 10 * WIDE
    assert unit_macs(run.network) == [5 * first + image, 5 * second + label]
    below, head = image + WIDE * WIDE, 10 * 2 * WIDE
    assert pass_macs(run.network) == below
    # from one pass, eight steps for the right and the wrong label, forward and gradients, of what changes; what
    # does not, once for the image, and for either label; then a pass for the classifier, and its gradients
    steps = 2 * 8 * 2 * (first + second) + 2 * image + 2 * 2 * label
    assert training_macs(run.recipe, run.network) == steps + below + below + 2 * head


@pytest.mark.slow
def test_a_real_engine_is_built_of_every_graph(recurrent: Path) -> None:
    from ffexport.engines import EngineLimits, build_engines
    from ffruntime.engine import import_library

    try:
        import_library("tensorrt-rtx")
    except BackendError as error:
        pytest.skip(str(error))
    rows = build_engines(recurrent, "tensorrt-rtx", None, limit=EngineLimits(batch=2, labels=10, workspace_mib=64))
    assert {Path(row.artefact).stem for row in rows} == {"unit1", "unit2", "goodness", "classifier"}
