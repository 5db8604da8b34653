"""The other Forward-Forward systems, each a recipe: narrow ones, from training to the answer on the device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import structs
from narrow import narrow

from ffexport.export import export_onnx
from ffruntime import Model, golden
from ffruntime.core.bundle import Bundle
from ffruntime.core.data import Examples
from ffruntime.core.errors import BundleError
from ffruntime.core.layers import head_parameters
from ffruntime.learning.learner import Learner
from ffruntime.learning.step import Settings
from fftrain.dataset import Dataset
from fftrain.pack import pack_run
from fftrain.recipe import Recipe
from fftrain.run import Interrupted, Run, start, train

pytestmark = pytest.mark.slow

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
STAY = {"hinton-recurrent", "hinton-local", "hinton-local-high", "hinton-local-bp"}  # as they were shipped


@pytest.fixture(scope="module")
def small(dataset: Dataset) -> Dataset:
    """1,000 training images."""
    few = Examples(dataset.train.pixels[:1000], dataset.train.labels[:1000])
    glance = Examples(dataset.validation.pixels[:100], dataset.validation.labels[:100])
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


@pytest.fixture(scope="module", params=SYSTEMS)
def whole(
    request: pytest.FixtureRequest, small: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Run]:
    """A system, and a run of it that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "model.ff"
    return request.param, run_to_the_end(narrow(request.param), small, out)


def test_from_training_to_the_answer(
    whole: tuple[str, Run], small: Dataset, digit_files: list[Path], tmp_path: Path
) -> None:
    path, (name, run) = tmp_path / "model.ff", whole
    pack_run(path, run, name, "cpu", "fp32", {})
    export_onnx(path)
    model = Model(path, state=False)
    checks = golden.check(model)
    golden.require(checks, "onnxruntime-cpu")
    decided = {"total": "goodness", "logits": "classifier"}
    of_inference = {row.output: row for row in checks if row.graph in ("goodness", "classifier")}
    assert {mode for output, mode in decided.items() if of_inference[output].decisions == 16} == set(run.modes)
    assert set(run.modes) == MODES.get(name, {"goodness", "classifier"})
    for mode in run.modes:
        answer = model.classify(digit_files[0], mode, preprocess=False)
        assert answer.label in small.classes
        assert answer.mode == mode
    if name in STAY:
        with pytest.raises(BundleError, match="no gradient graphs, so nothing can be learned"):
            Learner(model, tmp_path / "model.state")
    else:
        learns(model, small, tmp_path / "model.state")


def learns(model: Model, data: Dataset, state: Path) -> None:
    """Digits it has not seen, shown often, are told better afterwards, and every unit has moved."""
    images, right = data.validation.pixels[:64].numpy(), data.validation.labels[:64].tolist()
    settings, mode = Settings(steps=40, head_steps=40, fresh=0.8, lr=3e-3, head_lr=5e-2), model.manifest.modes[-1]
    with closing(Learner(model, state, settings, tolerance=1.0)) as learner:
        (outcome,) = learner.updates([(images, [data.classes[label] for label in right])])
        assert outcome.adopted
        before, after = (np.mean(one.scores(images, mode).argmax(1) == right) for one in (model, learner.model))
        assert after > before + 0.1
        learned = learner.model.weights.tensors
    shipped = Bundle(model.path).weights()
    assert {n for n in learned if np.any(learned[n] != shipped[n])} == {
        *(n for n in shipped if n.startswith("unit") and n.endswith((".weight", ".bias"))),
        *(tensor.name for tensor in head_parameters(model.manifest.network)),
    }


def test_interrupted_and_resumed_ends_the_same(whole: tuple[str, Run], small: Dataset, tmp_path: Path) -> None:
    steps, (name, run) = iter(range(12)), whole
    resumed = run_to_the_end(narrow(name), small, tmp_path / "model.ff", lambda: next(steps, None) is None)
    assert next(steps, None) is None
    for one, two in ((run.tensors, resumed.tensors), (run.peers, resumed.peers)):
        assert all(torch.equal(tensor, two[key]) for key, tensor in one.items())
    assert resumed.history[1] == run.history[1]
