"""Class goodness as graphs: valid, plain, and equal to PyTorch; gradients to its autograd."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
import torch
from onnx_runs import check_graph, run

from ffexport.class_graphs import class_gradient_graph
from ffexport.gradient_graphs import all_gradient_graphs
from ffexport.inference_graphs import all_graphs
from ffruntime.core.architecture import (
    AvgPool,
    Conv,
    Image,
    Input,
    Label,
    LeakyRelu,
    Linear,
    Local,
    MaxPool,
    Network,
    Readout,
    Relu,
    Unit,
    unit_shapes,
    validate,
)
from ffruntime.core.graphs import graphs
from ffruntime.core.layers import KNOWN, TOTAL, tensor_shapes
from ffruntime.core.learning import ClassLoss, Symmetric
from fftrain import network as net
from fftrain.class_step import class_gradient
from fftrain.step import local_gradient

PATTERNS, CLASSES = 5, 3
SHAPE = (2, 9, 11)
UNITS: dict[str, Unit] = {
    "conv": Unit((Conv(4, 3, padding=1), Relu())),
    "leaky, of stride 2": Unit((Conv(4, 3, 2, 1), LeakyRelu(0.2))),
    "leaky in the middle": Unit((Conv(4, 3), LeakyRelu(), Conv(3, 3), Relu())),
    "averages, windows left out": Unit((Conv(4, 3, padding=1), AvgPool(), Relu())),
    "averages in the middle": Unit((Conv(4, 3), AvgPool(3), LeakyRelu(), Conv(3, 2, padding=1), Relu())),
    "maxima": Unit((Conv(4, 3, padding=1), MaxPool(2), LeakyRelu())),
    "linear": Unit((Linear(9), Relu())),
    "local": Unit((Local(3, 3, padding=1), Relu())),
    "shortcut": Unit((Conv(2, 3, padding=1), Relu()), shortcut=True),
    "shortcut past two layers": Unit(
        (Conv(3, 3, padding=1), LeakyRelu(), Conv(2, 3, padding=1), LeakyRelu()), shortcut=True
    ),
}
FAST = ("averages in the middle", "shortcut")  # in ONNX Runtime, too
NORMALISATIONS = [Input(normalise=kind) for kind in ("none", "divisive", "batch", "layer", "instance")]
NORMALISATIONS.append(Input(normalise="group", groups=2))
CELLS = [(1, (2, 8, 8)), (4, (2, 8, 8)), (4, SHAPE), (4, (2, 7, 3)), (99, SHAPE)]


def network_of(*units: Unit, cells: int = 2, shape: tuple[int, int, int] = SHAPE) -> Network:
    """Units, each with a readout."""
    read = tuple(Unit(u.ops, u.inputs, u.trained, u.scored, Readout(cells), u.shortcut) for u in units)
    network = Network(Image(shape, 0.3, 0.25), Label("readout", PATTERNS), read)
    validate(network)
    return network


def initial(network: Network, seed: int = 0) -> net.Tensors:
    """In float64, drawn: biases and readouts, too; the spare rows are 0, and their classes not known."""
    generator = torch.Generator().manual_seed(seed)
    known = {KNOWN: (torch.arange(PATTERNS) < CLASSES).float()}
    tensors = {n: t.double() for n, t in net.initialise(network, known, generator).items()}
    for name, tensor in tensors.items():
        if ".readout." in name or name.endswith((".bias", ".mean", ".var")):
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
        if name.endswith(".var"):
            tensor.abs_().add_(0.5)
        if ".readout." in name:
            tensor[CLASSES:] = 0
    tensors[TOTAL] = torch.rand(len(network.units), generator=generator).double()
    return tensors


def some_input(network: Network, images: int = 6, seed: int = 1) -> torch.Tensor:
    """The first unit's input in float64, half of it zeros."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, *unit_shapes(network)[0][0], generator=generator).relu().double()


LABELS = torch.tensor([0, 1, 2, 2, 1, 0])


def compare(network: Network, loss: ClassLoss, dtype: type, tolerance: float) -> None:
    """The first unit's graph against autograd in float64: errors as a share of each output's largest value."""
    tensors, x = initial(network), some_input(network)
    model = class_gradient_graph(network, 0, loss, dtype)
    check_graph(model)
    outputs = run(model, {**tensors, "input": x, "labels": LABELS})
    gradients, y, report = class_gradient(network, 0, tensors, x, LABELS, loss)
    last = len(network.units) == 1
    after = net.normalise_divisive(y) if last else net.normalise(network, 1, tensors, y, training=False)
    expected = {f"gradient.{name}": gradient for name, gradient in gradients.items()} | {
        "next": after,
        "goodness": net.readout_goodness(network, 0, tensors, y),
        "loss": report[0],
    }
    assert list(outputs) == list(expected)
    for name, value in expected.items():
        assert (outputs[name].shape, outputs[name].dtype) == (value.shape, dtype), name
        error = np.abs(outputs[name] - value.numpy()).max()
        assert error <= tolerance * value.abs().max(), name
    assert np.abs(outputs["gradient.unit1.readout.weight"][CLASSES:]).max() == 0


@pytest.mark.slow
@pytest.mark.parametrize("unit", UNITS)
def test_gradients_are_autograds(unit: str) -> None:
    compare(network_of(UNITS[unit]), ClassLoss(), np.float64, 1e-7)


@pytest.mark.parametrize("unit", [pytest.param(u, marks=[] if u in FAST else pytest.mark.slow) for u in UNITS])
def test_gradients_in_onnx_runtime(unit: str) -> None:
    compare(network_of(UNITS[unit]), ClassLoss(0.1), np.float32, 1e-4)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_gradients_with_prototypes(dtype: type) -> None:
    compare(network_of(UNITS["conv"]), ClassLoss(0.1, prototypes=0.5), dtype, 1e-7 if dtype is np.float64 else 1e-4)


@pytest.mark.parametrize(("cells", "shape"), CELLS)
def test_gradients_whatever_the_cells(cells: int, shape: tuple[int, int, int]) -> None:
    """Sides that cells divide and do not, that have fewer pixels than cells, and a cell to a pixel."""
    compare(network_of(UNITS["conv"], cells=cells, shape=shape), ClassLoss(0.1), np.float64, 1e-7)


@pytest.mark.parametrize(
    ("unit", "above"),
    [*(("conv", above) for above in NORMALISATIONS), ("linear", Input(normalise="layer"))],
    ids=lambda value: getattr(value, "normalise", value),
)
def test_the_next_input_is_normalised_as_the_unit_above_wants_it(unit: str, above: Input) -> None:
    compare(network_of(UNITS[unit], Unit((Linear(4), Relu()), (above,))), ClassLoss(), np.float64, 1e-7)


def test_a_sure_answer_still_has_a_slope() -> None:
    """softmax − 1 of a margin of 30 is 1e-13: less than a float32 near 1 can tell."""
    network = network_of(UNITS["linear"])
    tensors, x = initial(network), some_input(network, 1)
    tensors["unit1.readout.weight"].zero_()
    tensors["unit1.readout.bias"].copy_(torch.tensor([30.0, 0, 0, 0, 0]))
    given = {**tensors, "input": x, "labels": LABELS[:1]}
    outputs = run(class_gradient_graph(network, 0, ClassLoss()), given)
    least = np.exp(-30)
    slopes = outputs["gradient.unit1.readout.bias"]
    np.testing.assert_allclose(slopes, [-2 * least, least, least, 0, 0], rtol=1e-4)
    assert outputs["loss"] == pytest.approx(0, abs=1e-6)
    given["input"] = torch.zeros_like(x)  # a dead image
    assert all(
        np.isfinite(value).all() for value in run(class_gradient_graph(network, 0, ClassLoss()), given).values()
    )


@pytest.mark.parametrize("unit", ["shortcut", "shortcut past two layers"])
def test_a_shortcut_of_a_pairs_unit(unit: str) -> None:
    """Where the label is in the input: the same sum, and the gradient is autograd's."""
    ops = tuple(Relu() if isinstance(op, LeakyRelu) else op for op in UNITS[unit].ops)
    network = Network(Image(SHAPE), Label("add", 4), (Unit(ops, shortcut=True),))
    validate(network)
    labels = {name: torch.zeros(0) for name in ("labels.patterns", "labels.neutral", "labels.keep")}
    tensors = net.initialise(network, labels, torch.Generator().manual_seed(0))
    tensors = {name: tensor.double() for name, tensor in tensors.items()}
    x = some_input(network)
    model = all_gradient_graphs(network, Symmetric())["gradient1"]
    outputs = run(model, {**tensors, "positive": x[:3], "negative": x[3:]})
    gradients, _, _ = local_gradient(network, 0, tensors, {"below": x}, Symmetric())
    for name, gradient in gradients.items():
        error = np.abs(outputs[f"gradient.{name}"] - gradient.numpy()).max()
        assert error <= 1e-4 * gradient.abs().max(), name


# ---------------------------------------- inference ----------------------------------------


def stacked() -> Network:
    """Every normalisation; the first unit is read and not scored, the last has no readout."""
    layer, group, instance, batch, none = (
        Input(normalise="layer"),
        Input(normalise="group", groups=2),
        Input(normalise="instance"),
        Input(normalise="batch"),
        Input(normalise="none"),
    )
    units = (
        Unit(UNITS["conv"].ops, (layer,), scored=False, readout=Readout(3)),
        Unit(UNITS["averages, windows left out"].ops, (group,), readout=Readout(3)),
        Unit(UNITS["leaky, of stride 2"].ops, (instance,), readout=Readout(3)),
        Unit((Conv(4, 3, padding=1), Relu()), (batch,), readout=Readout(1), shortcut=True),
        Unit((Linear(7), LeakyRelu()), (none,), readout=Readout()),
        Unit(UNITS["linear"].ops, (layer,), trained=False, scored=False),
    )
    network = Network(Image(SHAPE, 0.3, 0.25), Label("readout", PATTERNS), units)
    validate(network)
    return network


def test_goodness_is_torchs() -> None:
    """Of all units by name, in one graph and unit by unit; labels in any order."""
    network = stacked()
    tensors, found = initial(network), all_graphs(network)
    pixels = torch.randint(0, 256, (4, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    expected = net.goodness_of_classes(network, tensors, net.to_images(pixels, network, torch.float64)).numpy()
    images, labels = pixels.numpy() / 255, np.array([2, 0, 2])
    outputs = run(found["goodness"], {**tensors, "images": images, "labels": labels})
    np.testing.assert_allclose(outputs["goodness"], expected[:, labels], atol=1e-5)
    assert not outputs["goodness"][:, :, -1].any()
    weights = tensors[TOTAL].numpy()[1:-1]
    np.testing.assert_allclose(outputs["total"], expected[:, labels, 1:-1] @ weights, atol=1e-5)
    features = net.class_features(network, tensors, net.to_images(pixels, network, torch.float64))
    np.testing.assert_allclose(outputs["features"], features, atol=1e-5)
    x = net.normalise(network, 0, tensors, net.to_images(pixels, network, torch.float64), training=False).numpy()
    for index in range(len(network.units)):
        one = run(found[f"unit{index + 1}"], {**tensors, "input": x})
        np.testing.assert_allclose(one["goodness"], expected[:, :, index], atol=1e-5)
        x = one["output"]
    np.testing.assert_allclose((x**2).mean(1), 1, atol=1e-4)


def test_graphs_are_valid_and_hold_what_the_table_says() -> None:
    network = stacked()
    names = tensor_shapes(network).keys()
    found: Mapping[str, onnx.ModelProto] = all_graphs(network) | all_gradient_graphs(network, ClassLoss(0.1))
    assert found.keys() == graphs(network).keys() - {"gradient6"}  # which is not trained
    for name, model in found.items():
        check_graph(model)
        graph = graphs(network)[name]
        assert names & {value.name for value in model.graph.input} == graph.holds | set(graph.takes), name
        assert all(value.doc_string for value in (*model.graph.input, *model.graph.output)), name


def test_files_are_small() -> None:
    network = network_of(UNITS["conv"], cells=4, shape=(1, 28, 28))
    found = all_graphs(network) | all_gradient_graphs(network, ClassLoss())
    assert max(model.ByteSize() for model in found.values()) < 20_000
