"""The local update, against the formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ffruntime.architecture import Conv, Image, Label, Network, Relu, Unit
from fftrain.data import Dataset
from fftrain.loss import pair_loss
from fftrain.recipe import Loss, Negatives, Ratio, Recipe, Symmetric, Threshold, load_recipe
from fftrain.step import Batch, choose_negatives, local_gradient, training_step
from fftrain.train import Run, start

LOSSES = [Threshold(1.0, "sum"), Threshold(0.3, "mean"), Symmetric(4.0), Ratio(15.0)]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return (1 + np.tanh(x / 2)) / 2


def loss_slopes(loss: Loss, gp: np.ndarray, gn: np.ndarray, neurons: int) -> tuple[np.ndarray, np.ndarray]:
    """∂loss/∂g⁺ and ∂loss/∂g⁻ of each pair, written straight from the formulas."""
    if isinstance(loss, Symmetric):
        slope = loss.alpha * sigmoid(-loss.alpha * (gp - gn))
        return -slope, slope
    if isinstance(loss, Ratio):
        slope = loss.alpha * sigmoid(-loss.alpha * (np.log(gp) - np.log(gn)))
        return -slope / gp, slope / gn
    scale = neurons if loss.reduce == "sum" else 1
    return -scale * sigmoid(-scale * (gp - loss.theta)), scale * sigmoid(scale * (gn - loss.theta))


def closed_form(x: np.ndarray, w: np.ndarray, b: np.ndarray, loss: Loss) -> tuple[np.ndarray, np.ndarray]:
    """∂loss/∂W and ∂loss/∂b of relu(conv(x, W) + b), padding kernel // 2, in plain numpy float64.

    The activation is its own derivative's carrier: ∂g/∂(pre-activation) = (2 / N) · y (references, Arithmetic).
    """
    k = w.shape[-1]
    padded = np.pad(x, ((0, 0), (0, 0), (k // 2,) * 2, (k // 2,) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(2, 3))  # (2B, C, H, W, k, k)
    y = np.maximum(np.einsum("nchwij,ocij->nohw", windows, w) + b[:, None, None], 0)
    n = y[0].size
    gp, gn = np.split((y**2).mean(axis=(1, 2, 3)), 2)
    slopes = np.concatenate(loss_slopes(loss, gp, gn, n)) / len(gp)
    dy = slopes[:, None, None, None] * (2 / n) * y
    return np.einsum("nchwij,nohw->ocij", windows, dy), dy.sum(axis=(0, 2, 3))


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=str)
def test_gradient_is_the_closed_formula(loss: Loss, dtype: torch.dtype, tolerance: float, dataset: Dataset) -> None:
    network = Network(Image((1, 16, 16)), Label("channel", 12), (Unit((Conv(6, 5, padding=2), Relu())),))
    generator = torch.Generator().manual_seed(1)
    images = dataset.train.pixels[:8, :, 6:22, 6:22] / 255
    x = torch.cat([images, torch.rand(8, 1, 16, 16, generator=generator)], dim=1).to(dtype)
    w = torch.randn(6, 2, 5, 5, generator=generator, dtype=dtype) / 5
    b = torch.randn(6, generator=generator, dtype=dtype) / 5
    gradients, _, _ = local_gradient(network, 0, {"unit1.conv1.weight": w, "unit1.conv1.bias": b}, x, loss)
    expected = closed_form(x.double().numpy(), w.double().numpy(), b.double().numpy(), loss)
    for gradient, reference in zip(gradients.values(), expected, strict=True):
        np.testing.assert_allclose(gradient.double(), reference, atol=tolerance * np.abs(reference).max())


def some_batch(dataset: Dataset, count: int = 32) -> Batch:
    noise = torch.rand(count, 2, generator=torch.Generator().manual_seed(2))
    return Batch(dataset.train.pixels[:count], dataset.train.labels[:count], noise)


def fresh_run(recipe: Recipe, dataset: Dataset) -> Run:
    return start(recipe, dataset, 0, torch.device("cpu"), torch.float32)


def step(run: Run, batch: Batch) -> torch.Tensor:
    return training_step(run.recipe, run.network, run.tensors, run.optimizer, batch, 0.5, run.dtype)


def test_no_unit_feels_the_units_above_it(tiny_recipe: Recipe, dataset: Dataset) -> None:
    """Strictly local: other weights further up leave a unit's update as it was, bit for bit."""
    runs = [fresh_run(tiny_recipe, dataset) for _ in range(2)]
    for name, tensor in runs[1].tensors.items():
        if name.startswith(("unit2.", "unit3.", "head.")) and name.endswith((".weight", ".bias")):
            tensor += 0.1
    for run in runs:
        training_step(  # random negatives: hard ones come from the classifier, which has been changed
            run.recipe, run.network, run.tensors, run.optimizer, some_batch(dataset), 0.0, run.dtype
        )
    for name in ("unit1.conv1.weight", "unit1.conv1.bias"):
        assert torch.equal(runs[0].tensors[name], runs[1].tensors[name])
    assert not torch.equal(runs[0].tensors["unit2.conv1.weight"], runs[1].tensors["unit2.conv1.weight"])


def test_no_graph_outlives_a_unit(tiny_recipe: Recipe, dataset: Dataset) -> None:
    """What a unit hands on carries no history that a gradient could flow back through."""
    run = fresh_run(tiny_recipe, dataset)
    x = torch.rand(8, 2, 28, 28)
    _, y, _ = local_gradient(run.network, 0, run.tensors, x, tiny_recipe.loss)
    assert not y.requires_grad


def test_untrained_units_stay_as_initialised(dataset: Dataset) -> None:
    run = fresh_run(load_recipe("paper"), dataset)
    before = {name: tensor.clone() for name, tensor in run.tensors.items()}
    figures = step(run, some_batch(dataset, 2))
    assert figures[0].isnan().all()
    assert figures[1:].isfinite().all()
    changed = {name for name, tensor in run.tensors.items() if not torch.equal(tensor, before[name])}
    trained = {f"unit{k}.conv1.{part}" for k in (2, 3) for part in ("weight", "bias")}
    assert changed == trained | {"head.weight", "head.bias"}


def test_training_lowers_every_loss(tiny_recipe: Recipe, dataset: Dataset) -> None:
    run = fresh_run(tiny_recipe, dataset)
    figures = torch.stack([step(run, some_batch(dataset)) for _ in range(30)])
    assert (figures[-5:, :, 0].mean(0) < figures[:5, :, 0].mean(0)).all()


@given(
    logits=st.lists(st.lists(st.floats(-50, 50), min_size=12, max_size=12), min_size=1, max_size=8),
    noise=st.lists(st.floats(0, 1, exclude_max=True, width=32), min_size=16, max_size=16),
    label=st.integers(0, 11),
    hard=st.floats(0, 1),
    progress=st.floats(0, 1),
)
def test_a_negative_is_never_the_right_label(
    logits: list[list[float]], noise: list[float], label: int, hard: float, progress: float
) -> None:
    n = len(logits)
    labels = torch.full((n,), label)
    wrong = choose_negatives(
        Negatives(hard), labels, torch.tensor(logits), torch.tensor(noise)[: 2 * n].view(n, 2), progress
    )
    assert wrong.shape == (n,)
    assert ((wrong >= 0) & (wrong < 12) & (wrong != label)).all()


def test_negatives_follow_their_distribution() -> None:
    """Uniform before the warm-up, spare patterns included; then by the classifier's softmax."""
    n = 40_000
    labels, logits = torch.zeros(n, dtype=torch.long), torch.log(torch.tensor([0.4, 0.3, 0.2, 0.1])).expand(n, -1)
    noise = torch.rand(n, 2, generator=torch.Generator().manual_seed(3))
    for progress, expected in ((0.0, [0, 1 / 3, 1 / 3, 1 / 3]), (0.5, [0, 1 / 2, 1 / 3, 1 / 6])):
        wrong = choose_negatives(Negatives(hard=1.0, warmup=0.1), labels, logits, noise, progress)
        shares = torch.bincount(wrong, minlength=4) / n
        assert torch.allclose(shares, torch.tensor(expected), atol=0.01)


@given(st.floats(0.01, 50), st.floats(0.01, 50))
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_losses_fall_as_the_gap_grows(loss: Loss, positive: float, negative: float) -> None:
    g = torch.tensor([positive, positive * 1.5]).double(), torch.tensor([negative, negative / 1.5]).double()
    value = pair_loss(loss, *g, neurons=10)
    assert value.isfinite().all()
    assert (value >= 0).all()
    assert value[1] <= value[0]
