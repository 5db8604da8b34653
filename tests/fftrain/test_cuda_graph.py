"""The captured step, on a real GPU."""

from __future__ import annotations

import pytest
import torch
from narrow import narrow

from fftrain.dataset import Dataset, on_device
from fftrain.epoch import epoch_batches
from fftrain.hardware import compute_exactly
from fftrain.recipe import Recipe
from fftrain.run import start
from fftrain.step import training_step
from fftrain.training import learning_rate, set_learning_rates
from fftrain.ways import graphed


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
@pytest.mark.parametrize("system", [None, "hinton-recurrent", "hinton-local", "hinton-unsupervised"])
def test_a_captured_step_trains_as_the_plain_one_does(
    system: str | None, tiny_recipe: Recipe, dataset: Dataset
) -> None:
    """Twenty steps, with a learning rate and a share of hard negatives that change on the way."""
    recipe = narrow(system) if system else tiny_recipe
    compute_exactly()
    networks = []
    for wrap in (lambda step: step, graphed):
        run = start(recipe, dataset, 0, torch.device("cuda"), torch.float32)
        step, hard = wrap(training_step), torch.zeros((), device="cuda")
        batches = epoch_batches(on_device(dataset.train, run.device), recipe, 0, 0, skip=0)
        for index, batch in zip(range(20), batches, strict=False):
            set_learning_rates(run.optimizers, dict.fromkeys(run.optimizers, learning_rate(index / 20, 0.5)))
            hard.fill_(min(recipe.negatives.hard, 0.8) if index > 5 else 0.0)
            figures = step(run, batch, hard).clone()
        assert figures.isfinite().all()
        networks.append(run.tensors)
    for name, tensor in networks[0].items():
        torch.testing.assert_close(networks[1][name], tensor, rtol=1e-4, atol=1e-5, msg=name)
