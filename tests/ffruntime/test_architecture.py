"""The architecture description."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ffruntime.core import architecture
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
    Steps,
    Unit,
    cell_edges,
    unit_shapes,
    validate,
)
from ffruntime.core.cost import exit_shares, goodness_macs, pass_macs, unit_macs
from ffruntime.core.errors import BundleError
from ffruntime.core.graphs import graphs, graphs_of_mode, unit_gradient
from ffruntime.core.layers import head_features, learned_tensors, tensor_shapes, unit_parameters

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"
EXAMPLES = re.findall(r"^```json\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def network(*units: Unit, placement: str = "channel") -> Network:
    return Network(Image((1, 28, 28)), Label(placement, 12), units)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_pages_examples_are_descriptions(text: str) -> None:
    validate(msgspec.json.decode(text, type=Network))


def test_the_page_shows_every_system() -> None:
    recurrent = [msgspec.json.decode(text, type=Network).steps is not None for text in EXAMPLES]
    assert recurrent == [False] * 6 + [True] * 2


def test_shapes_and_names_of_the_papers_network() -> None:
    layer = (Conv(128, 7, padding=3), Relu())
    paper = network(Unit(layer, trained=False, scored=False), Unit(layer), Unit(layer), placement="add")
    assert unit_shapes(paper) == [((1, 28, 28), (128, 28, 28))] + [((128, 28, 28), (128, 28, 28))] * 2
    assert head_features(paper) == 2 * 128 * 784  # references: the flattened classifier on layers 2 and 3
    shapes = tensor_shapes(paper)
    assert shapes["unit2.conv1.weight"] == (128, 128, 7, 7)
    assert shapes["labels.keep"] == (1, 28, 28)
    assert shapes["head.weight"] == (12, 200_704)


def test_several_layers_in_a_unit_are_counted_by_kind() -> None:
    """Integrated FF: one to three layers in a unit."""
    unit = Unit((Linear(200), Relu(), Linear(100, bias=False), Relu()))
    names = [name for name in tensor_shapes(network(unit)) if name.startswith("unit1")]
    assert names == ["unit1.linear1.weight", "unit1.linear1.bias", "unit1.linear2.weight"]


def test_weights_of_a_locally_connected_layer_are_those_of_every_position() -> None:
    """Hinton's CIFAR-10 network: 3072 ReLUs are 3 at each of 32 × 32 positions, with fields of 11 × 11."""
    unit = Unit((Local(3, 11, padding=5), Relu()))
    cifar = Network(Image((3, 32, 32)), Label("add", 12), (unit,))
    assert unit_shapes(cifar) == [((3, 32, 32), (3, 32, 32))]
    assert {tensor.name: tensor.shape for tensor in unit_parameters(cifar, 0)} == {
        "unit1.local1.weight": (32, 32, 3, 3, 11, 11),
        "unit1.local1.bias": (3, 32, 32),
    }
    assert unit_macs(cifar) == [3072 * 3 * 11 * 11]


def test_batch_statistics_are_state_of_the_unit_below() -> None:
    unit = Unit((Conv(8, 3), Relu()), inputs=(Input(normalise="batch"),))
    assert tensor_shapes(network(unit))["unit1.below.mean"] == (2,)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ((Unit((Conv(8, 3),)),), "unit1: its last operation must be relu"),
        ((Unit((Conv(8, 40), Relu())),), r"unit1\.conv1: nothing is left of \(2, 28, 28\)"),
        ((Unit((Linear(8), Relu())), Unit((MaxPool(), Relu()))), r"unit2\.max_pool1: needs an image"),
        ((Unit((Linear(8), Relu()), scored=False),), "no unit is scored"),
        ((Unit((Conv(8, 3), Relu(), Relu())),), "unit1: a relu after a relu does nothing"),
    ],
)
def test_descriptions_that_cannot_be_computed(units: tuple[Unit, ...], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        validate(network(*units))


ONE, TOP = (Relu(),), Input("above", ops=(Linear(8),))
BELOW, OWN = Input(ops=(Linear(8),)), Input("self", ops=(Linear(8),))


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ((Unit(ONE, (OWN, TOP)),), "unit1: its inputs are from below, and then from others, each once"),
        ((Unit(ONE, (OWN,)), Unit(ONE, (BELOW, TOP))), "unit1: its inputs are from below"),
        ((Unit(ONE, (BELOW, OWN, OWN)),), "unit1: its inputs are from below, and then from others, each once"),
        ((Unit(ONE, (BELOW, OWN)),), "unit1: the topmost unit needs an input from above"),
        ((Unit(ONE, (BELOW, Input("above", ops=(Linear(9),)))),), r"unit1\.above: makes \(9,\), and below \(8,\)"),
        ((Unit(ONE, (BELOW, Input("above"))),), r"unit1\.above: makes \(12,\), and below \(8,\)"),
        ((Unit(ONE, (BELOW, Input("above", ops=(Conv(8, 1),)))),), r"unit1\.above\.conv1: needs an image"),
        (
            (Unit(ONE, (Input(normalise="batch", ops=(Linear(8),)), TOP)),),
            "unit1: an input of a recurrent network",
        ),
    ],
)
def test_recurrent_descriptions_that_cannot_be_computed(units: tuple[Unit, ...], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        validate(Network(Image((1, 28, 28)), Label("top", 12, 12), units, steps=Steps(8, 0.3, (3, 5))))


@pytest.mark.parametrize(
    ("placement", "steps", "message"),
    [
        ("top", None, "a label at the top needs steps"),
        ("add", Steps(8, 0.3, (3, 5)), "steps need a label at the top"),
        ("top", Steps(8, 0.3, (5, 3)), "goodness of steps 5 to 3 of 8"),
        ("top", Steps(4, 0.3, (3, 5)), "goodness of steps 3 to 5 of 4"),
    ],
)
def test_steps_that_do_not_fit(placement: str, steps: Steps | None, message: str) -> None:
    label = Label(placement, 12, 12 if placement == "top" else 1)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match=message):
        validate(Network(Image((1, 28, 28)), label, (Unit(ONE, (BELOW, TOP)),), steps=steps))


@pytest.mark.parametrize(
    "steps",
    [
        {"count": 1001, "damping": 0, "score": [1, 1]},
        {"count": 8, "damping": 1, "score": [1, 1]},
        {"count": 8, "damping": 0, "score": [0, 1]},
        {"count": 8, "damping": 0, "score": [1, 2, 3]},
        {"count": 8, "damping": 0},
    ],
)
def test_steps_out_of_range(steps: dict) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(steps, Steps)


def test_many_units_are_read_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest may have 1,000 of them: twice as many take twice as long, and no more."""
    looked = 0
    of_op = architecture.op_shape

    def counted(*args: Any) -> tuple[int, ...]:
        nonlocal looked
        looked += 1
        return of_op(*args)

    monkeypatch.setattr(architecture, "op_shape", counted)
    counts = []
    for many in (50, 100):
        units = (Unit(ONE, (BELOW, TOP, OWN)),) * many
        described = Network(Image((1, 28, 28)), Label("top", 12, 12), units, steps=Steps(8, 0.3, (3, 5)))
        looked = 0
        for read in (validate, tensor_shapes, unit_macs, pass_macs):
            read(described)
        counts.append(looked)
    assert 50 < counts[0] < counts[1] <= 2 * counts[0]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (Label("morphology", 12, element=4), "an element of 4 pixels is not odd"),
        (Label("morphology", 12, element=29), "an element of 29 pixels is not odd or exceeds the image"),
        (Label("morphology", 12, channels=3, element=5), "a structuring element has one channel"),
        (Label("add", 12, element=5), "placement add has no structuring elements"),
        (Label("add", 12, channels=2), "one channel, or as many as the image"),
    ],
)
def test_labels_that_do_not_fit_the_image(label: Label, message: str) -> None:
    units = (Unit((Linear(8), Relu())),)
    with pytest.raises(BundleError, match=message):
        validate(Network(Image((3, 28, 32)), label, units))


def test_structuring_elements_are_small() -> None:
    """The window's size; what is kept of the image is as large as the image."""
    described = Network(Image((3, 28, 32)), Label("morphology", 12, element=5), (Unit((Linear(8), Relu())),))
    validate(described)
    assert unit_shapes(described)[0][0] == (3, 28, 32)
    shapes = {n: s for n, s in tensor_shapes(described).items() if n.startswith("labels.")}
    assert shapes == {
        "labels.patterns": (12, 1, 5, 5),
        "labels.neutral": (1, 5, 5),
        "labels.keep": (1, 28, 32),
    }


def test_the_description_survives_json() -> None:
    described = network(Unit((Conv(8, 3, 2, 1), Local(2, 3), MaxPool(), Relu())), Unit((Linear(5), Relu())))
    assert msgspec.json.decode(msgspec.json.encode(described), type=Network) == described


# --- class goodness

CLASSES = Unit((Conv(8, 5, padding=2), AvgPool(), LeakyRelu()), readout=Readout(4))


def test_shapes_costs_and_graphs_of_class_goodness() -> None:
    """Two units with readouts, the first of which is not scored, and one between that has none."""
    untrained = Unit((Conv(4, 3, padding=1), Relu()), (Input(normalise="group", groups=2),), False, False)
    first, last = msgspec.structs.replace(CLASSES, scored=False), Unit((Linear(20), Relu()), readout=Readout(4))
    described = network(first, untrained, CLASSES, last, placement="readout")
    validate(described)
    assert tensor_shapes(described) == {
        "labels.known": (12,),
        "total.weights": (4,),
        "unit1.conv1.weight": (8, 1, 5, 5),
        "unit1.conv1.bias": (8,),
        "unit1.readout.weight": (12, 8 * 4 * 4),
        "unit1.readout.bias": (12,),
        "unit2.conv1.weight": (4, 8, 3, 3),
        "unit2.conv1.bias": (4,),
        "unit3.conv1.weight": (8, 4, 5, 5),
        "unit3.conv1.bias": (8,),
        "unit3.readout.weight": (12, 8 * 4 * 4),
        "unit3.readout.bias": (12,),
        "unit4.linear1.weight": (20, 8 * 7 * 7),
        "unit4.linear1.bias": (20,),
        "unit4.readout.weight": (12, 20),
        "unit4.readout.bias": (12,),
    }
    macs = [28 * 28 * 8 * 25 + 12 * 128, 14 * 14 * 4 * 8 * 9, 14 * 14 * 8 * 4 * 25 + 12 * 128, 20 * 392 + 12 * 20]
    assert unit_macs(described) == macs
    assert pass_macs(described) == goodness_macs(described, 10) == sum(macs)
    assert exit_shares(described) == [sum(macs[:3]) / sum(macs), 1.0]
    assert graphs_of_mode("exit", described) == ("unit1", "unit2", "unit3", "unit4")
    own = tuple(f"unit3.{name}" for name in ("conv1.weight", "conv1.bias", "readout.weight", "readout.bias"))
    assert unit_gradient(described, 2).takes == ("labels.known", *own)
    assert not {"classifier", "gradient_head"} & graphs(described).keys()
    assert [tensor.name for tensor in learned_tensors(described, [2])] == ["labels.known", *own]


@pytest.mark.parametrize(("side", "cells", "edges"), [(28, 4, [0, 7, 14, 21, 28]), (7, 4, [0, 1, 3, 5, 7])])
def test_cells_are_even_where_they_can_be(side: int, cells: int, edges: list[int]) -> None:
    assert cell_edges(side, cells) == edges


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ([msgspec.structs.replace(CLASSES, readout=None)], "unit1: needs a readout, or is neither trained nor"),
        ([msgspec.structs.replace(CLASSES, shortcut=True)], r"unit1: a shortcut needs one shape.* \(1, 28, 28\)"),
        (
            [CLASSES, Unit((Linear(9), Relu()), (Input(normalise="instance"),), readout=Readout())] * 2,
            "needs an im",
        ),
        ([Unit(CLASSES.ops, (Input(groups=2),), readout=Readout())], "groups of channels are for normalise"),
        (
            [Unit(CLASSES.ops, (Input(normalise="group", groups=2),), readout=Readout())],
            "channels are no 2 equal",
        ),
    ],
)
def test_class_goodness_that_cannot_be_computed(units: list[Unit], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        validate(network(*units, placement="readout"))


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        (Unit((Linear(9), Relu()), readout=Readout()), "a readout needs label.placement 'readout'"),
        (Unit((Linear(9), LeakyRelu())), "goodness of a label in the input is that of a relu"),
    ],
)
def test_a_label_in_the_input_has_no_class_goodness(unit: Unit, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        validate(network(unit))
