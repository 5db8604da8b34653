"""The ONNX graphs: valid, plain, and equal to torch."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from msgspec import structs

from ffexport.artefacts import REPORT
from ffexport.export import export_onnx
from ffexport.gradient_graphs import trained_units
from ffexport.inference_graphs import all_graphs
from ffexport.onnx_files import tensor_places, use_external_weights
from ffruntime.core import bundle as bundles
from ffruntime.core.architecture import (
    Conv,
    Image,
    Input,
    Label,
    Linear,
    Local,
    MaxPool,
    Network,
    Relu,
    Unit,
    class_goodness,
)
from ffruntime.core.bundle import Bundle
from ffruntime.core.data import Examples, to_unit_interval
from ffruntime.core.errors import ParityError
from ffruntime.core.graphs import graphs
from ffruntime.core.layers import KNOWN, tensor_shapes
from ffruntime.core.manifest import GOLDEN, WEIGHTS
from ffruntime.core.precision import TOLERANCE
from ffruntime.embedding import first_input
from ffruntime.golden import check
from ffruntime.model import Model
from fftrain import network as net
from fftrain.dataset import Dataset
from fftrain.evaluation import goodness_scores
from fftrain.override import Override
from fftrain.pack import pack_run
from fftrain.patterns import make_patterns
from fftrain.recipe import Morphology, Recipe, learning_of, load_recipe, recipe_names, with_epochs
from fftrain.run import Run, start

# Documented for ONNX Runtime, TensorRT 10 and 11 and TensorRT-RTX alike (onnx-tensorrt, operators.md).
SUPPORTED = {
    "Add",
    "ArgMax",
    "AveragePool",
    "Cast",
    "Clip",
    "Concat",
    "Constant",
    "Conv",
    "Div",
    "Equal",
    "Exp",
    "Expand",
    "Gather",
    "Gemm",
    "Greater",
    "Identity",
    "LeakyRelu",
    "Less",
    "Log",
    "LogSoftmax",
    "MatMul",
    "Max",
    "MaxPool",
    "Mul",
    "Neg",
    "Pad",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Shape",
    "Slice",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Transpose",
    "Unsqueeze",
    "Where",
}


TINY = Path(__file__).parents[1] / "tiny.toml"
LOCAL = "network.units.*.inputs.*.ops.0"
FAST = ("tiny",)


def narrowed(recipe: Recipe, width: int) -> Recipe:
    """The recipe with so many channels in every convolution and neurons in every linear layer, at most."""
    plain = msgspec.to_builtins(recipe)
    for unit in plain["network"]["units"]:
        for made in (unit, *unit["inputs"]):
            made["ops"] = [
                op | {"out": min(op["out"], width)} if op["op"] in ("conv", "linear") else op for op in made["ops"]
            ]
    return msgspec.convert(plain, Recipe)


def small(name: str) -> Recipe:
    """The recipe with a network so narrow that only shapes are smaller, and no epochs."""
    if name.startswith("hinton-local"):  # one neuron a pixel, and small fields
        local = {"op": "local", "out": 1, "kernel": 3, "padding": 1}
        fields: list[Override] = [("network.units.*.ops.0" if name.endswith("bp") else LOCAL, local)]
        if not name.endswith("bp"):  # what comes from above has the shape of the image
            fields += [("network.units.1.inputs.1.ops.0", {"op": "linear", "out": 28 * 28})]
        return with_epochs(load_recipe(name, fields), 0)
    return with_epochs(narrowed(load_recipe(name if name != "tiny" else str(TINY)), 8), 0)


def different() -> list[str]:
    """Recipes whose small networks, losses, kinds of labels and modes differ: the first of each stands for all."""
    kinds: dict[bytes, str] = {}
    for name in ("tiny", *recipe_names()):
        recipe = small(name)
        modes = (recipe.negatives.source, recipe.schedule.head_lr > 0)
        kinds.setdefault(
            msgspec.json.encode((recipe.network, recipe.loss, type(recipe.patterns).__name__, modes)), name
        )
    return list(kinds.values())


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in different()],
)
def untrained(
    request: pytest.FixtureRequest, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, Path]:
    """An untrained small network of every recipe, exported."""
    recipe = small(request.param)
    few = structs.replace(dataset, train=Examples(dataset.train.pixels[:60], dataset.train.labels[:60]))
    run = start(recipe, few, 0, torch.device("cpu"), torch.float32)
    path = tmp_path_factory.mktemp(request.param) / "model.ff"
    pack_run(path, run, request.param, "cpu", "fp32", {})
    export_onnx(path)
    return run, path


@pytest.mark.slow
def test_every_recipe_reproduces_its_golden_vectors(untrained: tuple[Run, Path]) -> None:
    """Every graph that the network can have, and gradients where units have losses."""
    run, path = untrained
    rows = check(Model(path))
    local, trained = learning_of(run.recipe) is not None, {None, *trained_units(run.network)}
    assert {row.graph for row in rows} == {
        name for name, graph in graphs(run.network).items() if graph.infers or (local and graph.unit in trained)
    }
    assert local == any(row.output.startswith("gradient.unit") for row in rows)
    assert all(row.passed for row in rows), rows


def test_graphs_are_valid_and_plain(untrained: tuple[Run, Path]) -> None:
    path = untrained[1]
    for file in path.glob("*.onnx"):
        onnx.checker.check_model(str(file), full_check=True)
        model = onnx.load(file, load_external_data=False)
        assert {node.op_type for node in model.graph.node} <= SUPPORTED
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
        assert model.ir_version <= 10
        unrolled = untrained[0].network.steps and file.name == "goodness.onnx"
        assert file.stat().st_size < (100_000 if unrolled else 60_000 if "gradient" in file.name else 20_000)
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
    unused = {KNOWN} if class_goodness(run.network) else set()  # which gradient graphs take
    unused |= {"labels.neutral"} if run.network.steps else set()  # the classifier's pass has no label there
    assert used | unused == tensor_shapes(run.network).keys()


@pytest.mark.slow
def test_exporting_twice_gives_the_same_bytes(untrained: tuple[Run, Path]) -> None:
    path = untrained[1]
    before = Bundle(path).manifest.files
    export_onnx(path)
    assert Bundle(path).manifest.files == before


def test_labels_are_an_input(exported: Path, trained_run: Run) -> None:
    """Ten labels, a shortlist of three in any order, or all twelve patterns: the same graph."""
    graph = Model(exported).graph("goodness")
    images = trained_run.dataset.validation.pixels[:5].numpy().astype(np.float32) / 255
    everything = graph({"images": images, "labels": np.arange(12)})
    shortlist = graph({"images": images, "labels": np.array([7, 1, 11])})
    assert everything["goodness"].shape == (5, 12, 3)
    np.testing.assert_allclose(shortlist["goodness"], everything["goodness"][:, [7, 1, 11]], rtol=1e-5)
    np.testing.assert_allclose(shortlist["total"], everything["total"][:, [7, 1, 11]], rtol=1e-5)


@pytest.mark.parametrize("count", [250, pytest.param(None, marks=pytest.mark.slow)])
def test_decisions_on_all_validation_images_are_torchs(count: int | None, exported: Path, trained_run: Run) -> None:
    """Equal but for ties within 1e-5 of the goodness, which are counted; of the first ones, and of all."""
    pixels = trained_run.dataset.validation.pixels[:count]
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


@pytest.mark.slow
def test_weights_that_are_not_the_golden_ones_are_refused(bundle: Path) -> None:
    """Another network's weights, vouched for by the manifest: the golden check finds out."""
    from safetensors.numpy import load_file, save

    manifest = Bundle(bundle).manifest
    tensors = load_file(Bundle(bundle).verified(WEIGHTS))
    tensors["unit2.conv1.bias"] = tensors["unit2.conv1.bias"] + 0.01
    bundles.write_bundle(bundle, manifest, {WEIGHTS: save(tensors)})
    before = {file.name: file.read_bytes() for file in bundle.iterdir()}
    with pytest.raises(ParityError, match="do not trust"):
        export_onnx(bundle)
    assert {file.name: file.read_bytes() for file in bundle.iterdir()} == before


def test_the_golden_table_is_kept(exported: Path) -> None:
    import json

    report = json.loads((exported / REPORT).read_text())
    assert report["backend"] == "onnxruntime-cpu"
    assert len(report["checks"]) == 8 + 3 * 2 + 2 + 3  # inference, units' gradients, the golden one, the head's


def test_golden_gradient_is_the_gradient(exported: Path, trained_run: Run) -> None:
    """Recomputed in float64 by autograd from the bundle's own weights."""
    from fftrain.pack import golden_gradient

    manifest = Bundle(exported).manifest
    golden = {n: torch.from_numpy(t) for n, t in Bundle(exported).tensors(GOLDEN).items()}
    weights = Bundle(exported).weights()
    tensors = {name: torch.from_numpy(tensor).double() for name, tensor in weights.items()}
    images = net.to_images(golden["images"], manifest.network, torch.float64)
    labels = torch.stack([golden["labels"], golden["negatives"]])
    assert (golden["labels"] != golden["negatives"]).all()
    x = net.embed_copies(manifest.network, tensors, images, labels)
    again = golden_gradient(manifest.network, tensors, x, golden["labels"], trained_run.recipe.loss)
    assert set(again) == {"gradient.unit1.conv1.weight", "gradient.unit1.conv1.bias"}
    for name, gradient in again.items():
        torch.testing.assert_close(golden[name], gradient)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """ONNX Runtime on a graph whose weights are inputs still."""
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.slow
@pytest.mark.parametrize("normalise", ["none", "range"])
@pytest.mark.parametrize(
    ("placement", "element", "channels", "first"),
    [
        ("add", 1, 1, "none"),
        ("add", 1, 3, "divisive"),
        ("channel", 1, 1, "batch"),
        ("channel", 1, 2, "none"),
        ("morphology", 5, 1, "batch"),
        ("morphology", 7, 1, "none"),
    ],
)
def test_colour_images_take_every_kind_of_label(
    placement: str, element: int, channels: int, first: str, normalise: str
) -> None:
    """Goodness in ONNX Runtime, and of unit 1 by way of numpy, is torch's in float64; labels in any order."""
    label = Label(placement, 12, channels, normalise, element)  # type: ignore[arg-type]
    units = (
        Unit((Conv(8, 3, padding=1), MaxPool(), Relu()), (Input(normalise=first),)),  # type: ignore[arg-type]
        Unit((Local(4, 3, 2, 1), Relu())),
        Unit((Linear(10), Relu())),
    )
    network = Network(Image((3, 12, 9), 0.3, 0.25), label, units, "log_sum")
    generator = torch.Generator().manual_seed(0)
    tensors = net.initialise(network, random_labels(network, generator), generator)
    tensors["head.weight"] = torch.randn(tensors["head.weight"].shape, generator=generator)
    exact = {name: tensor.double() for name, tensor in tensors.items()}
    weights = {name: tensor.numpy() for name, tensor in tensors.items()}
    pixels = torch.randint(0, 256, (5, 3, 12, 9), dtype=torch.uint8, generator=generator)
    labels = torch.tensor([11, 3, 3, 0, 7])
    standardised = net.to_images(pixels, network, torch.float64)
    expected = net.label_goodness(network, exact, standardised, labels)  # (5, 5, 3)
    features, logits = net.classify_linear(network, exact, standardised)

    made = all_graphs(network)

    def run(graph: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        ready = session(made[graph])
        given = weights | inputs
        names = [output.name for output in ready.get_outputs()]
        return dict(zip(names, ready.run(names, {i.name: given[i.name] for i in ready.get_inputs()}), strict=True))

    images = to_unit_interval(pixels.numpy())
    ours = run("goodness", images=images, labels=labels.numpy())
    np.testing.assert_allclose(ours["goodness"], expected, rtol=TOLERANCE)
    np.testing.assert_allclose(ours["total"], net.total_goodness(network, tensors, expected), rtol=TOLERANCE)
    scale = logits.abs().max().item()
    one_pass = run("classifier", images=images)
    np.testing.assert_allclose(one_pass["logits"], logits, atol=TOLERANCE * scale)
    np.testing.assert_allclose(one_pass["features"], features, atol=TOLERANCE * features.abs().max().item())
    x = first_input(network, weights, images, weights["labels.patterns"][labels])  # each image with one label
    first_goodness = run("unit1", input=x)["goodness"]
    np.testing.assert_allclose(first_goodness, expected.diagonal().T[:, 0], rtol=TOLERANCE)


def random_labels(network: Network, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Label tensors for any placement: noise, or erosions and dilations by lines."""
    if network.label.placement == "morphology":
        kind = Morphology(0.4, size=network.label.element)
        return make_patterns(kind, network.label.patterns - kind.spare, *network.image.shape[1:])
    shapes = {n: s for n, s in tensor_shapes(network).items() if n.startswith("labels.")}
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


def test_external_places_are_those_of_the_format(exported: Path) -> None:
    places = tensor_places(exported / WEIGHTS)
    ends = sorted(places.values())
    assert ends[-1][0] + ends[-1][1] == (exported / WEIGHTS).stat().st_size
    model = all_graphs(Bundle(exported).manifest.network)["classifier"]
    assert [value.name for value in use_external_weights(model, places).graph.input] == ["images"]
