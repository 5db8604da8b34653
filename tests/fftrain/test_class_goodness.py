"""Class goodness: every unit by the cross-entropy of its own readout, against the closed form in plain numpy."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from msgspec import structs

from ffruntime.core.architecture import (
    AvgPool,
    Conv,
    Image,
    Input,
    Label,
    LeakyRelu,
    Linear,
    MaxPool,
    Network,
    Readout,
    Relu,
    Unit,
    cell_edges,
)
from ffruntime.core.bundle import Bundle
from ffruntime.core.data import Examples
from ffruntime.core.errors import UsageError
from ffruntime.core.layers import KNOWN, TOTAL
from ffruntime.core.learning import ClassLoss, CrossEntropy
from fftrain import network as net
from fftrain.activation_maps import readout_maps
from fftrain.class_step import class_gradient, class_loss, similarity_loss
from fftrain.commands.explain import explain
from fftrain.dataset import Dataset
from fftrain.epoch import Batch, epoch_batches
from fftrain.evaluation import accuracy
from fftrain.figures import collect
from fftrain.functional import averaged, normalise_groups
from fftrain.pack import golden, pack_run
from fftrain.recipe import Adam, Recipe, load_recipe, with_epochs
from fftrain.report import render
from fftrain.run import Run, start, train
from fftrain.step import training_step
from fftrain.training import make_optimizers

ROOT = Path(__file__).parents[2]
# As narrow as it goes, and with what is asked here, whatever the shipped recipe says.
NARROW = [
    *((f"network.units.{unit}.ops.0.out", 4) for unit in range(3)),
    ("network.units.0.scored", False),
    ("loss.smoothing", 0.0),
    ("schedule.lr", 3e-3),
]


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("class", NARROW)


@pytest.fixture(scope="module")
def small(dataset: Dataset) -> Dataset:
    """640 training images: ten steps an epoch."""
    few = Examples(dataset.train.pixels[:640], dataset.train.labels[:640])
    return structs.replace(dataset, train=few, validation=Examples(few.pixels[:100], few.labels[:100]))


def fresh(recipe: Recipe, dataset: Dataset) -> Run:
    return start(recipe, dataset, 0, torch.device("cpu"), torch.float32)


def batch_of(dataset: Dataset, count: int = 32) -> Batch:
    return Batch(dataset.train.pixels[:count], dataset.train.labels[:count], torch.rand(count, 1, 2))


def network_of(*units: Unit, shape: tuple[int, int, int] = (2, 7, 6)) -> Network:
    return Network(Image(shape), Label("readout", 5), units)


def initial(network: Network) -> dict[str, torch.Tensor]:
    """In float64, rows 0 to 2 known, every readout drawn, too."""
    generator = torch.Generator().manual_seed(3)
    known = {KNOWN: torch.tensor([1.0, 1, 1, 0, 0])}
    tensors = net.initialise(network, known, generator)
    drawn = {name for names in net.readout_names(network).values() for name in names}
    for name in drawn:
        tensors[name] = torch.randn(tensors[name].shape, generator=generator)
        tensors[name][3:] = 0
    return {name: tensor.double() for name, tensor in tensors.items()}


def cells_of(y: np.ndarray, cells: int) -> np.ndarray:
    rows, columns = (cell_edges(side, min(side, cells)) for side in y.shape[2:])
    return np.stack(
        [
            np.stack([y[:, :, top:below, left:right].mean((2, 3)) for left, right in pairwise(columns)], -1)
            for top, below in pairwise(rows)
        ],
        -2,
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("cells", [2, 4, 9])
def test_a_readouts_gradient_is_the_closed_form(cells: int, smoothing: float) -> None:
    """By hand in numpy: ∂R = (p − t) zᵀ, p the softmax of goodness and t the target, and what flows back."""
    network = network_of(Unit((Conv(3, 3, padding=1), Relu()), readout=Readout(cells)))
    tensors = initial(network)
    random = np.random.default_rng(0)
    x, labels = torch.from_numpy(random.normal(size=(6, 2, 7, 6))), torch.tensor([0, 1, 2, 0, 1, 2])
    gradients, y, report = class_gradient(network, 0, tensors, x, labels, ClassLoss(smoothing))

    y_, weight = y.numpy(), tensors["unit1.readout.weight"].numpy()
    v = cells_of(y_, cells)
    flat = v.reshape(6, -1)
    scale = np.sqrt((flat**2).mean(1, keepdims=True) + 1e-8)
    z = flat / scale
    logits = (z @ weight.T + tensors["unit1.readout.bias"].numpy())[:, :3]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    target = (1 - smoothing) * np.eye(3)[labels] + smoothing / 3
    error = np.zeros((6, 5))
    error[:, :3] = (p - target) / 6
    np.testing.assert_allclose(gradients["unit1.readout.weight"], error.T @ z, atol=1e-12)
    np.testing.assert_allclose(gradients["unit1.readout.bias"], error.sum(0), atol=1e-12)
    assert not gradients["unit1.readout.weight"][3:].any()
    back = error @ weight
    of_cells = ((back - z * (back * z).mean(1, keepdims=True)) / scale).reshape(v.shape)
    rows, columns = (cell_edges(side, min(side, cells)) for side in (7, 6))
    of_pixels = np.zeros_like(y_)
    for i, (top, below) in enumerate(pairwise(rows)):
        for j, (left, right) in enumerate(pairwise(columns)):
            share = of_cells[:, :, i, j] / ((below - top) * (right - left))
            of_pixels[:, :, top:below, left:right] = share[:, :, None, None]
    of_pixels *= y_ > 0
    np.testing.assert_allclose(gradients["unit1.conv1.bias"], of_pixels.sum((0, 2, 3)), atol=1e-12)
    assert float(report[0]) == pytest.approx(-(target * np.log(p)).sum(1).mean())
    assert float(report[1]) == pytest.approx((logits.argmax(1) == labels.numpy()).mean())


@pytest.mark.parametrize(
    "unit",
    [
        Unit((Conv(4, 3, padding=1), MaxPool(2), LeakyRelu(0.2)), (Input(normalise="layer"),), readout=Readout(2)),
        Unit((Conv(4, 3), AvgPool(2), Relu()), (Input(normalise="group", groups=2),), readout=Readout(2)),
        Unit((Conv(2, 3, padding=1), Relu()), (Input(normalise="instance"),), readout=Readout(), shortcut=True),
        Unit((Linear(6), Relu()), readout=Readout()),
    ],
    ids=["layer, leaky", "group, average", "instance, shortcut", "linear"],
)
def test_gradients_are_the_slopes_of_the_loss(unit: Unit) -> None:
    """Against finite differences, in float64."""
    network = network_of(unit, shape=(2, 7, 6))
    tensors = initial(network)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 2, 7, 6)))
    labels, loss, h = torch.tensor([0, 1, 2, 1]), ClassLoss(0.1), 1e-6

    def value(changed: dict[str, torch.Tensor]) -> float:
        given = net.normalise(network, 0, changed, x, training=False)
        return float(class_gradient(network, 0, changed, given, labels, loss)[2][0])

    given = net.normalise(network, 0, tensors, x, training=False)
    gradients, y, _ = class_gradient(network, 0, tensors, given, labels, loss)
    assert not y.requires_grad
    for name, gradient in gradients.items():
        place = int(gradient.abs().argmax())
        slopes = []
        for step in (h, -h):
            changed = {**tensors, name: tensors[name].clone()}
            changed[name].view(-1)[place] += step
            slopes.append(value(changed))
        assert float(gradient.flatten()[place]) == pytest.approx((slopes[0] - slopes[1]) / (2 * h), rel=1e-5)


def test_normalisations_that_need_no_batch() -> None:
    x = np.random.default_rng(0).normal(2, 3, size=(5, 4, 3, 2))
    for groups, axes in ((1, (1, 2, 3)), (4, (2, 3))):
        expected = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)
        np.testing.assert_allclose(normalise_groups(torch.from_numpy(x), groups), expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 7, 14), (3, 2, 3), (12,)])
def test_cells_are_averages(shape: tuple[int, ...]) -> None:
    y = torch.from_numpy(np.random.default_rng(0).normal(size=(2, *shape)))
    expected = y.numpy() if len(shape) == 1 else cells_of(y.numpy(), 4).reshape(2, -1)
    channels_last = y if len(shape) == 1 else y.contiguous(memory_format=torch.channels_last)
    for given in (y, channels_last):
        np.testing.assert_allclose(averaged(Readout(4), given), expected, atol=1e-12)


def test_rows_that_are_not_known_take_no_part() -> None:
    goodness = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    known, labels = torch.tensor([1.0, 1, 1, 0, 0]), torch.arange(8) % 3
    for loss in (ClassLoss(), ClassLoss(0.2)):
        expected = class_loss(goodness[:, :3], labels, torch.ones(3), loss)
        higher = goodness.clone()
        higher[:, 3:] += 100
        for own in (goodness, higher):
            assert torch.equal(class_loss(own, labels, known, loss)[1], expected[1])


def test_similarity_matching_draws_images_of_a_class_together() -> None:
    """Its value, and its slope in a unit's weights by finite differences."""
    features = np.random.default_rng(0).normal(size=(5, 6))
    labels = torch.tensor([0, 1, 0, 2, 1])
    centred = features - features.mean(1, keepdims=True)
    cosines = centred @ centred.T / np.multiply.outer(*[np.linalg.norm(centred, axis=1)] * 2)
    expected = ((cosines - (labels[:, None] == labels).numpy()) ** 2).mean()
    assert float(similarity_loss(torch.from_numpy(features), labels)) == pytest.approx(expected)

    network = network_of(Unit((Conv(3, 3, padding=1), Relu()), readout=Readout(2)))
    tensors, x = initial(network), torch.from_numpy(np.random.default_rng(1).normal(size=(5, 2, 7, 6)))
    plain, with_term = (
        class_gradient(network, 0, tensors, x, labels, ClassLoss(), None, weight)[0] for weight in (0.0, 2.0)
    )

    def value(change: float) -> float:
        changed = {**tensors, "unit1.conv1.bias": tensors["unit1.conv1.bias"] + torch.tensor([change, 0, 0])}
        y = net.activation(network, 0, changed, {"below": x})
        return float(similarity_loss(net.readout_features(network, 0, y), labels))

    slope = (value(1e-6) - value(-1e-6)) / 2e-6
    term = with_term["unit1.conv1.bias"] - plain["unit1.conv1.bias"]
    assert float(term[0]) == pytest.approx(2 * slope, rel=1e-5)
    assert torch.equal(plain["unit1.readout.weight"], with_term["unit1.readout.weight"])


def test_no_unit_feels_the_units_above_it(recipe: Recipe, small: Dataset) -> None:
    runs = [fresh(recipe, small) for _ in range(2)]
    for name, tensor in runs[1].tensors.items():
        if name.startswith(("unit2.", "unit3.")):
            tensor += 0.1
    for run in runs:
        for _ in range(2):
            training_step(run, batch_of(small), torch.tensor(0.0))
    own = [name for name in runs[0].tensors if name.startswith("unit1.")]
    assert all(torch.equal(runs[0].tensors[name], runs[1].tensors[name]) for name in own)
    assert not torch.equal(runs[0].tensors["unit2.conv1.weight"], runs[1].tensors["unit2.conv1.weight"])


def test_spare_rows_stay_zero(recipe: Recipe, small: Dataset) -> None:
    decayed = structs.replace(recipe, optimizer=Adam(weight_decay=0.1), loss=ClassLoss(0.1))
    run = fresh(decayed, small)
    assert run.tensors[KNOWN].tolist() == [1] * 10 + [0, 0]
    assert run.tensors[TOTAL].tolist() == [0, 1, 1]
    figures = torch.stack([training_step(run, batch_of(small), torch.tensor(0.0)) for _ in range(12)])
    assert (figures[-1, :-1, 0] < figures[0, :-1, 0]).all()
    assert figures[:, -1].isnan().all()
    for weight, bias in net.readout_names(run.network).values():
        assert run.tensors[weight][:10].any(1).all()
        assert not run.tensors[weight][10:].any()
        assert not run.tensors[bias][10:].any()


def test_weight_decay_is_apart_from_the_gradient(recipe: Recipe, small: Dataset) -> None:
    """Where there is no gradient, weights shrink by the share lr · decay."""
    run = fresh(structs.replace(recipe, optimizer=Adam(weight_decay=0.1)), small)
    before = run.tensors["unit1.conv1.weight"].clone()
    training_step(run, batch_of(small), torch.tensor(0.0))  # readouts are zero, so nothing flows back yet
    assert torch.allclose(run.tensors["unit1.conv1.weight"], before * (1 - 3e-3 * 0.1), rtol=1e-6)


def test_dropout_is_drawn_from_the_step(recipe: Recipe, small: Dataset) -> None:
    """The same seed, epoch and step drop the same; other steps drop something else."""
    dropping = structs.replace(recipe, dropout=0.25)
    first, second = list(epoch_batches(small.train, dropping, 0, 0, skip=0))[:2]
    (again, *_) = epoch_batches(small.train, dropping, 0, 0, skip=1)
    assert again.dropout == second.dropout != first.dropout
    runs = [fresh(dropping, small) for _ in range(3)]
    for run, batch in zip(runs, (first, first, structs.replace(first, dropout=second.dropout)), strict=True):
        for _ in range(2):
            training_step(run, batch, torch.tensor(0.0))
    one, same, other = (run.tensors["unit3.conv1.weight"] for run in runs)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    plain = list(epoch_batches(small.train, recipe, 0, 0, skip=0))
    assert plain[1].dropout is None
    assert torch.equal(plain[1].pixels, second.pixels)


def test_from_training_to_the_bundle(recipe: Recipe, small: Dataset, tmp_path: Path) -> None:
    """The total is chosen at the end and kept; golden vectors are what the network computes."""
    run = fresh(with_epochs(recipe, 2), small)
    rows = [status.row for status in train(run, tmp_path / "model.ff", False, lambda: False) if status.row]
    assert "total" not in rows[0]
    total = rows[1]["total"]
    assert run.tensors[TOTAL].tolist() == total["weights"]
    assert run.tensors[TOTAL][0] == 0  # it is not scored
    scores = accuracy(run.network, run.tensors, small.validation, 10, torch.float32, run.modes)
    assert scores == {"goodness": pytest.approx(total["accuracy"])}
    assert len(rows[1]["unit_accuracy"]) == 3
    pack_run(tmp_path / "model.ff", run, "class", "cpu", "fp32", {})
    bundle = Bundle(tmp_path / "model.ff")
    assert bundle.manifest.modes == ("goodness",)
    assert bundle.manifest.learning
    assert bundle.manifest.learning.loss == ClassLoss()
    page = render("model.ff", bundle.manifest, bundle.weights(), collect(bundle.manifest, small, {}, {}))
    assert f"when training ended: {total['name']}, " in page
    assert "Label patterns" not in page
    vectors = golden(run.network, run.tensors, small.train, 10, bundle.manifest.learning, 0)
    assert set(vectors) == {
        "images",
        "labels",
        "goodness",
        "total",
        *(f"gradient.unit1.{name}" for name in ("conv1.weight", "conv1.bias", "readout.weight", "readout.bias")),
    }
    assert vectors["goodness"].shape == (16, 12, 3)
    assert torch.allclose(vectors["goodness"] @ run.tensors[TOTAL].double(), vectors["total"])


def test_a_readouts_maps_add_up_to_its_goodness(recipe: Recipe, small: Dataset, tmp_path: Path) -> None:
    """Less the bias, in every scored unit; `fftrain explain` draws them of a bundle without graphs."""
    run = fresh(with_epochs(recipe, 1), small)
    list(train(run, tmp_path / "model.ff", False, lambda: False))
    images = net.to_images(small.train.pixels[:1], run.network, torch.float32)
    goodness = net.goodness_of_classes(run.network, run.tensors, images)[0]
    for label, maps in readout_maps(run.network, run.tensors, images, [3, 8]).items():
        assert [one.unit for one in maps] == ["unit2", "unit3"]
        for one, unit in zip(maps, (1, 2), strict=True):
            assert one.map is not None
            assert one.on_image is not None
            assert one.goodness == pytest.approx(float(goodness[label, unit]), rel=1e-5)
            for drawn in (one.map, one.on_image):
                assert float(drawn.sum()) == pytest.approx(one.goodness - one.bias, abs=1e-4)
    pack_run(tmp_path / "model.ff", run, "class", "cpu", "fp32", {})
    picture, out = str(ROOT / "examples" / "three.png"), str(tmp_path / "three.png")
    done = CliRunner().invoke(explain, [str(tmp_path / "model.ff"), picture, "--label", "3", "--out", out])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("3: goodness")
    assert Path(out).read_bytes().startswith(b"\x89PNG")


def test_backpropagation_is_by_the_last_readout_alone(recipe: Recipe, small: Dataset) -> None:
    run = fresh(structs.replace(recipe, loss=CrossEntropy()), small)
    assert run.tensors[TOTAL].tolist() == [0, 0, 1]
    before = {name: tensor.clone() for name, tensor in run.tensors.items()}
    figures = torch.stack([training_step(run, batch_of(small), torch.tensor(0.0)) for _ in range(12)])
    assert figures[-1, -1, 0] < 0.85 * figures[0, -1, 0]
    assert figures[:, :-1].isnan().all()
    moved = {name for name, tensor in run.tensors.items() if not torch.equal(tensor, before[name])}
    assert moved >= {*(f"unit{k}.conv1.weight" for k in (1, 2, 3)), "unit3.readout.weight"}
    assert not moved & {"unit1.readout.weight", "unit2.readout.weight"}
    assert run.modes == ("goodness",)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (("loss", {"kind": "symmetric"}), "loss.kind is 'class'"),
        (("patterns", {"kind": "random"}), "are both 'readout', or neither"),
        (("negatives.hard", 0.5), "has no negatives"),
        (("gradient", "crossing"), "no crossing gradients"),
        (("peer.weight", 0.1), "peer normalisation"),
        (("network.units.2.readout", None), "unit3: needs a readout"),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else "",
)
def test_what_does_not_fit_is_said(setting: tuple[str, object], message: str, small: Dataset) -> None:
    with pytest.raises(UsageError, match=message):
        fresh(load_recipe("class", [setting]), small)
    with pytest.raises(UsageError, match="dropout and similarity are for units"):
        fresh(load_recipe("cpu", [("dropout", 0.1)]), small)


def test_bf16_learns_as_fp32_does(recipe: Recipe, small: Dataset) -> None:
    """Readouts, losses and weights stay in fp32; activations are coarse."""
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        run = start(recipe, small, 0, torch.device("cpu"), dtype)
        run.optimizers = make_optimizers(recipe, run.network, run.tensors)
        for _ in range(10):
            figures = training_step(run, batch_of(small, 64), torch.tensor(0.0))
        losses.append(figures[:-1, 0])
    assert torch.allclose(losses[0], losses[1], rtol=0.1)
