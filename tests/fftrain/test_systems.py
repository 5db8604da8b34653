"""The other Forward-Forward systems, each a recipe: narrow ones, from training to the answer on the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from msgspec import structs
from narrow import narrow

from ffexport.export import export_onnx
from ffruntime import Model, golden
from fftrain.data import Dataset, Split
from fftrain.pack import write_bundle
from fftrain.recipe import Recipe
from fftrain.train import Interrupted, Run, start, train

SYSTEMS = [
    "hinton-mlp",
    "hinton-mlp-jitter",
    "intff",
    "intff-output",
    "intff-small",
    "intff-cnn",
    "ff-mlp-sequential",
    "hinton-unsupervised",
    "hinton-recurrent",
    "hinton-local",
    "hinton-local-high",
    "hinton-local-bp",
]
MODES = {
    "hinton-unsupervised": {"classifier"},
    "hinton-local-bp": {"classifier"},
    "intff": {"goodness"},
    "intff-small": {"goodness"},
}


@pytest.fixture(scope="module")
def small(dataset: Dataset) -> Dataset:
    """1,000 training images."""
    few = Split(dataset.train.pixels[:1000], dataset.train.labels[:1000])
    glance = Split(dataset.validation.pixels[:100], dataset.validation.labels[:100])
    return structs.replace(dataset, train=few, validation=glance)


def run_to_the_end(recipe: Recipe, data: Dataset, out: Path, stop: Callable[[], bool] | None = None) -> Run:
    """A run; interrupted where it is asked to `stop`, and then resumed."""
    run = start(recipe, data, 0, torch.device("cpu"), torch.float32)
    try:
        list(train(run, out, resume=False, stop=stop or (lambda: False)))
    except Interrupted:
        run = start(recipe, data, 0, torch.device("cpu"), torch.float32)
        list(train(run, out, resume=True, stop=lambda: False))
    return run


@pytest.mark.parametrize("name", SYSTEMS)
def test_from_training_to_the_answer(name: str, small: Dataset, digit_files: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "model.ff"
    run = run_to_the_end(narrow(name), small, path)
    write_bundle(path, run, name, "cpu", "fp32", {})
    export_onnx(path)
    model = Model(path, state=False)
    golden.require(golden.check(model), "onnxruntime-cpu")
    assert set(run.modes) == MODES.get(name, {"goodness", "classifier"})
    for mode in run.modes:
        answer = model.classify(digit_files[0], mode, preprocess=False)
        assert answer.label in small.classes
        assert answer.mode == mode


@pytest.mark.parametrize("name", SYSTEMS)
def test_interrupted_and_resumed_ends_the_same(name: str, small: Dataset, tmp_path: Path) -> None:
    steps = iter(range(12))
    whole = run_to_the_end(narrow(name), small, tmp_path / "one.ff")
    resumed = run_to_the_end(narrow(name), small, tmp_path / "two.ff", lambda: next(steps, None) is None)
    assert next(steps, None) is None
    for one, two in ((whole.tensors, resumed.tensors), (whole.peers, resumed.peers)):
        assert all(torch.equal(tensor, two[key]) for key, tensor in one.items())
    assert resumed.history[1] == whole.history[1]
