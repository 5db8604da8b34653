"""The local update, against the formulas."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from ffruntime.core.architecture import Conv, Image, Label, Network, Relu, Unit
from ffruntime.core.learning import CrossEntropy, PairLoss, Ratio, Symmetric, Threshold
from fftrain.dataset import Dataset
from fftrain.epoch import Batch, choose_negatives, plausibility
from fftrain.network import label_goodness, to_images
from fftrain.recipe import Adam, Negatives, Recipe, Sgd, load_recipe
from fftrain.run import Run, start
from fftrain.step import local_gradient, pair_loss, training_step

LOSSES = [Threshold(1.0, "sum"), Threshold(0.3, "mean"), Symmetric(4.0), Ratio(15.0)]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("negatives", [1, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=str)
def test_gradient_is_the_closed_formula(
    loss: PairLoss, negatives: int, dtype: torch.dtype, tolerance: float, dataset: Dataset
) -> None:
    network = Network(Image((1, 16, 16)), Label("channel", 12), (Unit((Conv(6, 5, padding=2), Relu())),))
    generator = torch.Generator().manual_seed(1)
    images = dataset.train.pixels[: 4 * (1 + negatives), :, 6:22, 6:22] / 255
    x = torch.cat([images, torch.rand(len(images), 1, 16, 16, generator=generator)], dim=1).to(dtype)
    w = torch.randn(6, 2, 5, 5, generator=generator, dtype=dtype) / 5
    b = torch.randn(6, generator=generator, dtype=dtype) / 5
    tensors = {"unit1.conv1.weight": w, "unit1.conv1.bias": b}
    gradients, _, _ = local_gradient(network, 0, tensors, {"below": x}, loss, 1 + negatives)
    exact = [t.double().numpy() for t in (x, w, b)]
    expected = reference.unit_gradient(*exact, loss, 1 + negatives)
    for gradient, formula in zip(gradients.values(), expected, strict=False):
        np.testing.assert_allclose(gradient.double(), formula, atol=tolerance * np.abs(formula).max())


def two_units(recipe: Recipe, loss: PairLoss, count: int) -> Recipe:
    """Two conv units with divisive inputs, the second one scored, and so many random negatives."""
    units = (Unit((Conv(5, 5, padding=2), Relu()), scored=False), Unit((Conv(4, 3, padding=1), Relu())))
    network = msgspec.structs.replace(recipe.network, units=units, score="sum")
    negatives = Negatives(count)
    return msgspec.structs.replace(recipe, network=network, loss=loss, negatives=negatives)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float64, 1e-9),
        pytest.param(torch.float32, 2e-2, marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, 0.5, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_fast_step_does_what_the_formulas_say(
    loss: PairLoss, count: int, dtype: torch.dtype, tolerance: float, tiny_recipe: Recipe, dataset: Dataset
) -> None:
    """Five steps, parameters against the reference; the tolerance is a share of what the steps changed."""
    recipe = two_units(tiny_recipe, loss, count)
    run = start(recipe, dataset, 0, torch.device("cpu"), dtype)
    if dtype == torch.float64:
        for name, tensor in run.tensors.items():
            run.tensors[name] = tensor.double()
        run.optimizers = start_optimizers(run)
    before = {name: tensor.double().numpy().copy() for name, tensor in run.tensors.items()}
    batches = []
    for index in range(5):
        batch = some_batch(dataset, 8, count, index)
        wrong = choose_negatives(batch.labels, 12, None, torch.tensor(0.0), batch.noise)
        images = to_images(batch.pixels, run.network, torch.float64).numpy()
        batches.append((images, torch.cat([batch.labels[None], wrong]).numpy()))
        training_step(run, batch, torch.tensor(0.0))
    expected = reference.train(before, [1], loss, batches, recipe.schedule.lr, recipe.schedule.head_lr)
    for name, tensor in run.tensors.items():
        moved = np.linalg.norm(expected[name] - before[name])
        assert np.linalg.norm(tensor.double().numpy() - expected[name]) <= tolerance * moved, name
        assert (moved > 0) == name.startswith(("unit", "head."))


def start_optimizers(run: Run) -> dict[str, torch.optim.Optimizer]:
    from fftrain.training import make_optimizers

    return make_optimizers(run.recipe, run.network, run.tensors)


def some_batch(dataset: Dataset, count: int = 32, negatives: int = 1, index: int = 0) -> Batch:
    noise = torch.rand(count, negatives, 2, generator=torch.Generator().manual_seed(2 + index))
    chosen = slice(index * count, (index + 1) * count)
    return Batch(dataset.train.pixels[chosen], dataset.train.labels[chosen], noise)


def fresh_run(recipe: Recipe, dataset: Dataset) -> Run:
    return start(recipe, dataset, 0, torch.device("cpu"), torch.float32)


def step(run: Run, batch: Batch, hard: float = 0.5) -> torch.Tensor:
    return training_step(run, batch, torch.tensor(hard))


def test_no_unit_feels_the_units_above_it(tiny_recipe: Recipe, dataset: Dataset) -> None:
    """Strictly local: other weights further up leave a unit's update as it was, bit for bit."""
    runs = [fresh_run(tiny_recipe, dataset) for _ in range(2)]
    for name, tensor in runs[1].tensors.items():
        if name.startswith(("unit2.", "unit3.", "head.")) and name.endswith((".weight", ".bias")):
            tensor += 0.1
    for run in runs:
        step(run, some_batch(dataset), hard=0)  # hard negatives come from the classifier, which has been changed
    for name in ("unit1.conv1.weight", "unit1.conv1.bias"):
        assert torch.equal(runs[0].tensors[name], runs[1].tensors[name])
    assert not torch.equal(runs[0].tensors["unit2.conv1.weight"], runs[1].tensors["unit2.conv1.weight"])


def test_no_graph_outlives_a_unit(tiny_recipe: Recipe, dataset: Dataset) -> None:
    """What a unit hands on carries no history that a gradient could flow back through."""
    run = fresh_run(tiny_recipe, dataset)
    x = torch.rand(8, 2, 28, 28)
    _, y, _ = local_gradient(run.network, 0, run.tensors, {"below": x}, tiny_recipe.loss)
    assert not y.requires_grad


def test_untrained_units_stay_as_initialised(dataset: Dataset) -> None:
    run = fresh_run(load_recipe("paper"), dataset)
    before = {name: tensor.clone() for name, tensor in run.tensors.items()}
    figures = step(run, some_batch(dataset, 2))
    assert figures.isfinite().all()  # what the first unit would discriminate is reported all the same
    changed = {name for name, tensor in run.tensors.items() if not torch.equal(tensor, before[name])}
    trained = {f"unit{k}.conv1.{part}" for k in (2, 3) for part in ("weight", "bias")}
    assert changed == trained | {"head.weight", "head.bias"}


def test_training_lowers_every_loss(tiny_recipe: Recipe, dataset: Dataset) -> None:
    run = fresh_run(tiny_recipe, dataset)
    figures = torch.stack([step(run, some_batch(dataset)) for _ in range(30)])
    assert (figures[-5:, :, 0].mean(0) < figures[:5, :, 0].mean(0)).all()


@pytest.mark.parametrize("name", ["crossing", "cross_entropy"])
def test_one_loss_for_the_whole_network(name: str, tiny_recipe: Recipe, dataset: Dataset) -> None:
    """Where gradients cross units, and with plain backpropagation, weights further up change a unit's update."""
    loss = CrossEntropy() if name == "cross_entropy" else Symmetric(4.0)
    gradient = "local" if name == "cross_entropy" else "crossing"
    recipe = msgspec.structs.replace(tiny_recipe, loss=loss, gradient=gradient)
    runs = [fresh_run(recipe, dataset) for _ in range(2)]
    for run in runs:
        run.tensors["head.weight"] += 0.01
    for key, tensor in runs[1].tensors.items():
        if key.startswith("unit2.conv1"):
            tensor += 0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(4))
    for run in runs:
        step(run, some_batch(dataset), hard=0)
    assert not torch.equal(runs[0].tensors["unit1.conv1.weight"], runs[1].tensors["unit1.conv1.weight"])


def test_crossing_gradients_are_those_of_the_sum_of_losses(tiny_recipe: Recipe, dataset: Dataset) -> None:
    """Against finite differences, in float64, of the summed loss; the first unit has none of its own."""
    recipe = two_units(tiny_recipe, Threshold(1.0, "mean"), 1)
    units = (msgspec.structs.replace(recipe.network.units[0], trained=False), recipe.network.units[1])
    network = msgspec.structs.replace(recipe.network, units=units)
    plain = msgspec.structs.replace(recipe.schedule, lr=1.0)
    recipe = msgspec.structs.replace(
        recipe, network=network, gradient="crossing", optimizer=Sgd(momentum=0), schedule=plain
    )
    batch = some_batch(dataset, 4)

    def run_with(change: float) -> tuple[Run, float, float]:
        run = start(recipe, dataset, 0, torch.device("cpu"), torch.float64)
        run.tensors = {key: tensor.double() for key, tensor in run.tensors.items()}
        run.optimizers = start_optimizers(run)
        weight = run.tensors["unit1.conv1.weight"]
        weight[0, 0, 2, 2] += change
        before = float(weight[0, 0, 2, 2])
        figures = step(run, batch, hard=0)
        return run, before, float(figures[1, 0])

    run, before, _ = run_with(0)
    gradient = before - float(run.tensors["unit1.conv1.weight"][0, 0, 2, 2])
    slope = (run_with(1e-5)[2] - run_with(-1e-5)[2]) / 2e-5
    assert gradient == pytest.approx(slope, rel=1e-5)
    assert slope != 0


def test_backpropagation_learns(tiny_recipe: Recipe, dataset: Dataset) -> None:
    run = fresh_run(msgspec.structs.replace(tiny_recipe, loss=CrossEntropy()), dataset)
    figures = torch.stack([step(run, some_batch(dataset)) for _ in range(30)])
    assert figures[-1, -1, 0] < 0.5 * figures[0, -1, 0]
    assert figures[:, :-1].isnan().all()
    assert run.modes == ("classifier",)


def test_without_a_classifier_nothing_of_it_changes(tiny_recipe: Recipe, dataset: Dataset) -> None:
    schedule = msgspec.structs.replace(tiny_recipe.schedule, head_lr=0)
    run = fresh_run(msgspec.structs.replace(tiny_recipe, schedule=schedule, negatives=Negatives()), dataset)
    figures = step(run, some_batch(dataset))
    assert not run.tensors["head.weight"].any()
    assert figures[-1].isnan().all()
    assert run.modes == ("goodness",)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [Adam(), Sgd(0.9, 1e-4)], ids=str)
def test_both_optimizers_lower_the_loss(optimizer: Adam | Sgd, tiny_recipe: Recipe, dataset: Dataset) -> None:
    schedule = msgspec.structs.replace(tiny_recipe.schedule, lr=3e-3 if isinstance(optimizer, Adam) else 0.05)
    run = fresh_run(msgspec.structs.replace(tiny_recipe, optimizer=optimizer, schedule=schedule), dataset)
    figures = torch.stack([step(run, some_batch(dataset), hard=0) for _ in range(30)])
    assert (figures[-5:, :-1, 0].mean(0) < figures[:5, :-1, 0].mean(0)).all()


@pytest.mark.slow
@given(
    scores=st.lists(st.lists(st.floats(-50, 50), min_size=12, max_size=12), min_size=1, max_size=8),
    noise=st.lists(st.floats(0, 1, exclude_max=True, width=32), min_size=48, max_size=48),
    label=st.integers(0, 11),
    count=st.integers(1, 3),
    hard=st.floats(0, 1),
)
def test_a_negative_is_never_the_right_label(
    scores: list[list[float]], noise: list[float], label: int, count: int, hard: float
) -> None:
    n = len(scores)
    numbers = torch.tensor(noise)[: n * count * 2].view(n, count, 2)
    wrong = choose_negatives(torch.full((n,), label), 12, torch.tensor(scores), torch.tensor(hard), numbers)
    assert wrong.shape == (count, n)
    assert ((wrong >= 0) & (wrong < 12) & (wrong != label)).all()


def test_negatives_follow_their_distribution() -> None:
    """Uniform, spare patterns included; or by the softmax of the scores over the wrong labels."""
    n = 40_000
    labels, scores = torch.zeros(n, dtype=torch.long), torch.log(torch.tensor([0.4, 0.3, 0.2, 0.1])).expand(n, -1)
    noise = torch.rand(n, 2, 2, generator=torch.Generator().manual_seed(3))
    for hard, expected in ((0.0, [0, 1 / 3, 1 / 3, 1 / 3]), (1.0, [0, 1 / 2, 1 / 3, 1 / 6])):
        wrong = choose_negatives(labels, 4, scores, torch.tensor(hard), noise)
        for row in wrong:
            shares = torch.bincount(row, minlength=4) / n
            assert torch.allclose(shares, torch.tensor(expected), atol=0.01)


def test_the_networks_own_goodness_can_choose_negatives(trained_run: Run) -> None:
    """Of a trained network it points at the right label first, and then at those that look like it."""
    images = to_images(trained_run.dataset.train.pixels[:64], trained_run.network, torch.float32)
    labels = trained_run.dataset.train.labels[:64]
    kind = Negatives(hard=1.0, source="goodness", sharpness=2.0)
    scores = plausibility(kind, trained_run.network, trained_run.tensors, images, None)
    assert scores is not None
    assert scores.shape == (64, 12)
    assert (scores.argmax(1) == labels).float().mean() > 0.8
    goodness = label_goodness(trained_run.network, trained_run.tensors, images, torch.arange(12))
    scored = [index for index, unit in enumerate(trained_run.network.units) if unit.scored]
    assert torch.allclose(scores, 2 * goodness[..., scored].log().sum(-1), atol=1e-4)


@given(st.floats(0.01, 50), st.floats(0.01, 50))
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_losses_fall_as_the_gap_grows(loss: PairLoss, positive: float, negative: float) -> None:
    high = torch.tensor([positive, positive * 1.5]).double()
    low = torch.tensor([[negative, negative / 1.5], [negative, negative / 1.2]]).double()
    value = pair_loss(loss, high, low, neurons=10)
    assert value.isfinite().all()
    assert (value >= 0).all()
    assert value[1] <= value[0]
