"""The gradient graphs: valid, plain, and equal to PyTorch's autograd; with the optimizers, step for step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from onnx_runs import check_graph, ready, run

from ffexport.gradient_graphs import all_gradient_graphs, gradient_graph, head_gradient_graph
from ffruntime.core.architecture import (
    Conv,
    Image,
    Input,
    Label,
    Linear,
    Local,
    MaxPool,
    Network,
    Op,
    Relu,
    Steps,
    Unit,
    unit_shapes,
    validate,
)
from ffruntime.core.bundle import Bundle
from ffruntime.core.errors import BundleError
from ffruntime.core.graphs import unit_gradient
from ffruntime.core.layers import head_features, unit_parameters
from ffruntime.core.learning import Hybrids, PairLoss, Ratio, Symmetric, Threshold, WrongLabels, sharpness
from ffruntime.core.manifest import Manifest, decode_manifest, encode_manifest
from ffruntime.core.precision import TOLERANCE
from ffruntime.golden import ROUNDING
from ffruntime.learning.step import adam, sgd, zeros_like
from fftrain import network as net
from fftrain.step import local_gradient

LOSSES = [
    pytest.param(Threshold(1.0, "sum"), marks=pytest.mark.slow),
    pytest.param(Threshold(0.3, "mean"), marks=pytest.mark.slow),
    Symmetric(4.0),
    pytest.param(Ratio(15.0), marks=pytest.mark.slow),
]
UNITS: dict[str, tuple[Op, ...]] = {
    "conv": (Conv(4, 3, padding=1), Relu()),
    "conv without padding or bias": (Conv(4, 3, bias=False), Relu()),
    "conv of stride 2": (Conv(4, 5, 2, 2), Relu()),
    "conv of stride 2 without padding": (Conv(4, 3, 2), Relu()),
    "conv of stride 3, odd padding": (Conv(3, 2, 3, 3), Relu()),
    "linear": (Linear(9), Relu()),
    "linear without bias": (Linear(9, bias=False), Relu()),
    "local": (Local(3, 3, padding=1), Relu()),
    "local of stride 2, without bias": (Local(3, 3, 2, bias=False), Relu()),
    "pool before the last ReLU": (Conv(4, 3, padding=1), MaxPool(), Relu()),
    "pool after a ReLU, ties": (Conv(4, 3, padding=1), Relu(), MaxPool(3), Relu()),
    "pool first": (MaxPool(), Conv(3, 3), Relu()),
    "several linear layers": (Linear(8), Relu(), Linear(7), Relu(), Linear(6), Relu()),
    "several conv layers": (Conv(3, 3), Relu(), Conv(4, 3, 2, 1), Relu(), Conv(5, 2, bias=False), Relu()),
    "stride, pool and linear": (Conv(3, 3, 2), Relu(), Conv(4, 2, 1, 3), MaxPool(), Relu(), Linear(6), Relu()),
    "several local layers": (Local(3, 3, padding=1), Relu(), Local(2, 3, 2, 2), Relu(), Local(2, 2), Relu()),
}

FAST = ("conv of stride 2", "local", "pool after a ReLU, ties", "several conv layers", "stride, pool and linear")
SOME_UNITS = [pytest.param(unit, marks=[] if unit in FAST else pytest.mark.slow) for unit in UNITS]


def network_of(*units: tuple[Op, ...], shape: tuple[int, int, int] = (2, 9, 11), above: str = "batch") -> Network:
    """The units, and one above them that has batch statistics, or what is asked for."""
    top = Unit((Linear(3), Relu()), (Input(normalise=above),))  # type: ignore[arg-type]
    network = Network(Image(shape), Label("add", 12), (*(Unit(ops) for ops in units), top))
    validate(network)
    return network


def initial(network: Network, seed: int = 0) -> net.Tensors:
    """Weights, biases that are not zero, and statistics of the units' inputs, in float64."""
    generator = torch.Generator().manual_seed(seed)
    labels = {name: torch.zeros(0) for name in ("labels.patterns", "labels.neutral", "labels.keep")}
    tensors = {n: t.double() for n, t in net.initialise(network, labels, generator).items()}
    for name, tensor in tensors.items():
        if name.endswith((".bias", ".mean", ".var")) or name.startswith("head."):
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator) + name.endswith(".var"))
    return tensors


def some_input(network: Network, index: int, copies: int, images: int = 3, seed: int = 1) -> torch.Tensor:
    """A unit's input in float64, (copies · images, …), half of it zeros as behind a ReLU."""
    shape = unit_shapes(network)[index][0]
    return torch.randn(copies * images, *shape, generator=torch.Generator().manual_seed(seed)).relu().double()


def unit_inputs(x: torch.Tensor, copies: int) -> dict[str, torch.Tensor]:
    images = len(x) // copies
    return {"positive": x[:images], "negative": x[images:]}


def compare(network: Network, loss: PairLoss, copies: int, dtype: type, tolerance: float) -> None:
    """The first unit's graph against autograd in float64: errors as a share of each output's largest value.

    Of the loss, which is a report, the error of ln(1 + x) near 1 counts as it is; and a gradient whose terms cancel
    to nothing may be off by rounding.
    """
    tensors, x = initial(network), some_input(network, 0, copies)
    model = gradient_graph(network, 0, loss, dtype)
    outputs = run(model, {**tensors, **unit_inputs(x, copies)})
    gradients, y, report = local_gradient(network, 0, tensors, {"below": x}, loss, copies)
    goodness = net.mean_square(y)
    after = net.normalise(network, 1, tensors, y, training=False)
    images = len(x) // copies
    expected = {f"gradient.{name}": gradient for name, gradient in gradients.items()} | {
        "next.positive": after[:images],
        "next.negative": after[images:],
        "goodness.positive": goodness[:images],
        "goodness.negative": goodness[images:],
        "loss": report[0],
    }
    assert list(outputs) == list(expected)
    for name, value in expected.items():
        assert outputs[name].shape == value.shape, name
        assert outputs[name].dtype == dtype
        error = np.abs(outputs[name] - value.numpy()).max()
        scale = max(value.abs().max(), 1 if name == "loss" else 1e-6)
        assert error <= tolerance * scale, name


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("unit", UNITS)
def test_gradients_are_autograds(unit: str, loss: PairLoss) -> None:
    compare(network_of(UNITS[unit]), loss, 4, np.float64, 1e-6)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("unit", SOME_UNITS)
def test_gradients_in_onnx_runtime(unit: str, loss: PairLoss) -> None:
    compare(network_of(UNITS[unit]), loss, 4, np.float32, 1e-4)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-6), (np.float32, 1e-4)])
def test_one_negative_is_enough(loss: PairLoss, dtype: type, tolerance: float) -> None:
    compare(network_of(UNITS["conv"]), loss, 2, dtype, tolerance)


@pytest.mark.parametrize("above", ["none", "divisive", "batch"])
@pytest.mark.parametrize("unit", ["conv", "linear"])
def test_the_next_input_is_normalised_as_the_unit_above_wants_it(unit: str, above: str) -> None:
    compare(network_of(UNITS[unit], above=above), Symmetric(), 2, np.float64, 1e-6)


def operations() -> st.SearchStrategy[list[Op]]:
    shape = (st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(0, 4), st.booleans())
    spatial = (st.builds(Conv, *shape), st.builds(Local, *shape), st.builds(MaxPool, st.integers(1, 3)))
    kinds = st.one_of(*spatial, st.just(Relu()), st.builds(Linear, st.integers(1, 5)))
    return st.lists(kinds, min_size=1, max_size=4)


@pytest.mark.slow
@given(
    ops=operations(),
    shape=st.tuples(st.integers(1, 2), st.integers(3, 9), st.integers(3, 9)),
    negatives=st.integers(1, 3),
    loss=st.sampled_from([Threshold(1.0, "sum"), Threshold(0.3, "mean"), Symmetric(4.0), Ratio(15.0)]),
)
@settings(max_examples=20)
def test_gradients_of_any_unit(ops: list[Op], shape: tuple[int, int, int], negatives: int, loss: PairLoss) -> None:
    """Whatever operations follow each other, at odd sizes, too."""
    if isinstance(ops[-1], Relu):  # once more would change nothing
        return
    try:
        network = network_of((*ops, Relu()), shape=shape)
    except BundleError:
        return
    if unit_parameters(network, 0):
        check_graph(gradient_graph(network, 0, loss))
        compare(network, loss, 1 + negatives, np.float64, 1e-6)


def test_of_equal_values_the_first_gets_the_gradient() -> None:
    """In scan order, as in PyTorch. Every window has a tie of sums of different inputs: 2 + 0, then 1 + 1."""
    network = network_of((Conv(1, 1, bias=False), MaxPool(), Relu()), shape=(2, 4, 5))
    tensors = initial(network) | {"unit1.conv1.weight": torch.ones(1, 2, 1, 1).double()}
    x = torch.ones(2, 2, 4, 5).double()
    x[:, 0, ::2, ::2], x[:, 1, ::2, ::2] = 2, 0
    x[1] *= 0.5
    loss = Symmetric()
    expected, _, _ = local_gradient(network, 0, tensors, {"below": x}, loss)
    outputs = run(gradient_graph(network, 0, loss), {**tensors, **unit_inputs(x, 2)})
    gradient = outputs["gradient.unit1.conv1.weight"].ravel()
    assert gradient[0] != 0
    assert gradient[1] == 0
    np.testing.assert_allclose(gradient, expected["unit1.conv1.weight"].numpy().ravel(), rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 30.0])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_losses_do_not_overflow(loss: PairLoss, scale: float) -> None:
    """100,352 neurons, so θ = N is 100,352, and goodness from nothing to a thousand times θ."""
    network = network_of((Linear(100_352, bias=False), Relu()), shape=(1, 1, 2))
    tensors = initial(network)
    x = scale * some_input(network, 0, 3, images=2) + scale
    outputs = run(gradient_graph(network, 0, loss), {**tensors, **unit_inputs(x, 3)})
    assert all(np.isfinite(value).all() for value in outputs.values())
    gradients, _, report = local_gradient(network, 0, tensors, {"below": x}, loss, 3)
    (expected,) = gradients.values()
    error = np.abs(outputs["gradient.unit1.linear1.weight"] - expected.numpy()).max()
    rounding = ROUNDING * sharpness(loss, 100_352, float(outputs["goodness.positive"].max()))
    assert error <= max(TOLERANCE, rounding) * expected.abs().max()
    assert outputs["loss"] == pytest.approx(report[0].item(), rel=1e-4, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["conv of stride 2", "local", "pool before the last ReLU", "several conv layers"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("loss", [Threshold(0.3, "mean"), Symmetric(4.0)], ids=str)
def test_fifty_steps_are_torchs(unit: str, optimizer: str, loss: PairLoss) -> None:
    """Graph in ONNX Runtime and optimizer in numpy, against autograd and torch.optim, all in float32."""
    network = network_of(UNITS[unit])
    session = ready(gradient_graph(network, 0, loss))
    theirs = {name: tensor.float() for name, tensor in initial(network).items()}
    ours = {name: theirs[name].numpy().copy() for name in unit_gradient(network, 0).takes}
    own = {parameter.name: theirs[parameter.name] for parameter in unit_parameters(network, 0)}
    made = torch.optim.Adam(own.values(), 1e-2) if optimizer == "adam" else torch.optim.SGD(own.values(), 0.05, 0.9)
    parameters = {name: ours[name] for name in own}
    state = [zeros_like(parameters) for _ in range(2)]
    before = {name: array.copy() for name, array in parameters.items()}
    names = [output.name for output in session.get_outputs()]
    for step in range(1, 51):
        x = some_input(network, 0, 3, images=4, seed=step).float()
        for name, gradient in local_gradient(network, 0, theirs, {"below": x}, loss, 3)[0].items():
            own[name].grad = gradient
        made.step()
        inputs = {name: part.numpy() for name, part in unit_inputs(x, 3).items()}
        outputs = dict(zip(names, session.run(names, {**inputs, **ours}), strict=True))
        gradients = {name: outputs[f"gradient.{name}"] for name in own}
        if optimizer == "adam":
            adam(parameters, gradients, *state, step=step, lr=1e-2)
        else:
            sgd(parameters, gradients, state[0], lr=0.05, momentum=0.9)
    for name, array in parameters.items():
        moved = np.abs(array - before[name]).max()
        assert moved > 0.01
        assert np.abs(array - own[name].numpy()).max() <= 1e-3 * moved, name


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-6), (np.float32, 1e-4)])
def test_the_classifiers_gradient_is_autograds(dtype: type, tolerance: float) -> None:
    network = network_of(UNITS["conv"], above="none")
    tensors, count = initial(network), head_features(network)
    features = torch.randn(6, count, generator=torch.Generator().manual_seed(2)).double()
    labels = torch.tensor([0, 11, 3, 3, 7, 5])
    model = head_gradient_graph(network, dtype)
    check_graph(model)
    outputs = run(model, {**tensors, "features": features, "labels": labels})
    head = {name: tensors[name].requires_grad_() for name in ("head.weight", "head.bias")}
    logits = net.head_logits(head, features)
    value = torch.nn.functional.cross_entropy(logits, labels)
    value.backward()
    expected = {f"gradient.{name}": tensor.grad for name, tensor in head.items()}
    expected |= {"logits": logits, "loss": value}
    assert list(outputs) == list(expected)
    for name, tensor in expected.items():
        error = np.abs(outputs[name] - tensor.detach().numpy()).max()
        assert error <= tolerance * tensor.abs().max(), name


def test_fifty_steps_of_the_classifier_are_torchs() -> None:
    network = network_of(UNITS["linear"])
    session = ready(head_gradient_graph(network))
    theirs = {n: t.float().requires_grad_() for n, t in initial(network).items() if n.startswith("head.")}
    ours = {name: tensor.detach().numpy().copy() for name, tensor in theirs.items()}
    before, state = {name: array.copy() for name, array in ours.items()}, [zeros_like(ours) for _ in range(2)]
    made = torch.optim.Adam(theirs.values(), 1e-2)
    generator = torch.Generator().manual_seed(3)
    for step in range(1, 51):
        features = torch.randn(8, head_features(network), generator=generator)
        labels = torch.randint(0, 12, (8,), generator=generator)
        made.zero_grad()
        torch.nn.functional.cross_entropy(net.head_logits(theirs, features), labels).backward()
        made.step()
        names = [f"gradient.{name}" for name in ours]
        found = session.run(names, {"features": features.numpy(), "labels": labels.numpy(), **ours})
        adam(ours, dict(zip(ours, found, strict=True)), *state, step=step, lr=1e-2)
    for name, array in ours.items():
        moved = np.abs(array - before[name]).max()
        assert np.abs(array - theirs[name].detach().numpy()).max() <= 1e-3 * moved


def test_micro_batches_add_up() -> None:
    """The mean of the gradients of two halves is the gradient of the whole: images do not feel each other."""
    network, copies = network_of(UNITS["conv"]), 3
    tensors, x = initial(network), some_input(network, 0, copies, images=4)
    model = gradient_graph(network, 0, Ratio())
    whole = run(model, {**tensors, **unit_inputs(x, copies)})
    table = x.unflatten(0, (copies, 4))
    halves = [run(model, {**tensors, **unit_inputs(h.flatten(0, 1), copies)}) for h in table.split(2, dim=1)]
    for name in ("gradient.unit1.conv1.weight", "gradient.unit1.conv1.bias", "loss"):
        np.testing.assert_allclose((halves[0][name] + halves[1][name]) / 2, whole[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("unit", SOME_UNITS)
def test_a_batch_can_be_fixed(unit: str) -> None:
    """For engines that want it static; else it is the only dimension that is open."""
    network = network_of(UNITS[unit])
    for batch in (None, (4, 3)):
        model = gradient_graph(network, 0, Symmetric(), batch=batch)
        check_graph(model)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        values = [*inferred.graph.input, *inferred.graph.output]
        shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
        below, activation = unit_shapes(network)[0]
        for sign, rows in (("positive", 4 if batch else 0), ("negative", 12 if batch else 0)):  # 0: dynamic
            assert shapes[sign] == [rows, *below]
            assert shapes[f"next.{sign}"] == [rows, *activation]
            assert shapes[f"goodness.{sign}"] == [rows]


def test_which_units_have_a_gradient() -> None:
    """Those that are trained and have something to train; by backpropagation none, and no classifier of its own."""
    conv, pool = (Conv(2, 3), Relu()), (MaxPool(), Relu())
    units = (Unit(conv, trained=False), Unit(conv), Unit(pool), Unit((Linear(3), Relu())))
    network = Network(Image((1, 12, 12)), Label("add", 12), units)
    assert list(all_gradient_graphs(network, Symmetric())) == ["gradient2", "gradient4", "gradient_head"]
    assert all_gradient_graphs(network, None) == {}


def with_learning(manifest: Manifest, learning: dict[str, Any]) -> Manifest:
    """The manifest as it is read where its `learning` is that object."""
    text = json.dumps({**json.loads(encode_manifest(manifest)), "learning": learning})
    return decode_manifest(Path("manifest.json"), text.encode())


@pytest.mark.parametrize(
    ("learning", "loss"),
    [
        ({"loss": {"kind": "ratio", "alpha": 3}}, Ratio(3.0)),
        ({"loss": {"kind": "threshold"}}, Threshold()),
        ({"loss": {"kind": "cross_entropy"}}, None),
        ({"loss": {"kind": "unheard of"}}, None),
        ({"loss": {"kind": "ratio"}, "negatives": {"kind": "hybrids"}}, Ratio()),
        ({"loss": {"kind": "ratio"}, "negatives": {"kind": "wrong_labels", "of tomorrow": 1}}, None),
        ({"loss": {"kind": "ratio"}, "negatives": "of tomorrow"}, None),
        ({}, None),
    ],
)
def test_the_loss_comes_from_the_manifest(learning: dict[str, Any], loss: PairLoss | None, exported: Path) -> None:
    """What a device cannot learn by is refused."""
    manifest = Bundle(exported).manifest
    if loss is None:
        with pytest.raises(BundleError, match=r"manifest\.json: damaged: .*`\$\.learning"):
            with_learning(manifest, learning)
    else:
        found = with_learning(manifest, learning).learning
        assert found
        assert found.loss == loss


def test_hybrid_negatives_are_named_by_the_manifest(exported: Path) -> None:
    manifest, loss = Bundle(exported).manifest, {"loss": {"kind": "ratio"}}
    found = with_learning(manifest, loss | {"negatives": {"kind": "hybrids", "blur": 3}}).learning
    assert found
    assert found.negatives == Hybrids(3)
    other = with_learning(manifest, loss).learning
    assert other
    assert other.negatives == WrongLabels()
    for blur in (0, -1, 2.5, "three", 10**30):
        with pytest.raises(BundleError, match=r"`\$\.learning\.negatives\.blur`"):
            with_learning(manifest, loss | {"negatives": {"kind": "hybrids", "blur": blur}})


def test_no_gradient_graphs_of_a_recurrent_network(exported: Path) -> None:
    """A manifest that has such a network learn is refused."""
    inputs = (Input(ops=(Linear(3),)), Input("above", ops=(Linear(3),)))
    steps = Steps(2, 0.3, (1, 2))
    network = Network(Image((1, 28, 28)), Label("top", 12, 12), (Unit((Relu(),), inputs),), steps=steps)
    manifest = structs.replace(Bundle(exported).manifest, network=network, learning=None)
    with pytest.raises(BundleError, match="recurrent network has no losses"):
        with_learning(manifest, {"loss": {"kind": "ratio"}})
