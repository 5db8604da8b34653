"""Split-MNIST on a tiny network: the protocol, not the figures."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import structs

from ffruntime.core.data import Examples
from ffruntime.demo import split_mnist
from ffruntime.demo.digits import load
from ffruntime.demo.split_mnist import TASKS, Method, SplitPlan
from ffruntime.demo.split_mnist import untrained as untrained_weights
from ffruntime.learning.store import BUNDLES, LEARNED, PENDING, REFUSED
from ffruntime.learning.stream import Stream
from ffruntime.model import Model
from ffruntime.session import Session
from fftrain.network import initialise

pytestmark = pytest.mark.slow

PLAN = SplitPlan(stored=40, arriving=32, per_task=96, rehearsal=2, gdumb=3, goodness=20)
SHORT = SplitPlan(stored=40, arriving=32, per_task=32, rehearsal=1, gdumb=1, goodness=10)


@pytest.fixture(scope="module")
def model(untrained: Path) -> Model:
    return Model(untrained, session=Session(threads=1), state=False)


@pytest.fixture(scope="module")
def digits(data: Path) -> tuple[Examples, Examples]:
    training, tested = load(data, "test")
    return training, tested.take(np.arange(120))


def run(model: Model, digits: tuple[Examples, Examples], seed: int, plan: SplitPlan = PLAN) -> dict[str, Method]:
    found = split_mnist.run(model, *digits, plan, seed, lambda: None)
    return {name: structs.replace(method, seconds=0.0) for name, method in found}


def test_a_seed_is_a_run(model: Model, digits: tuple[Examples, Examples]) -> None:
    first = run(model, digits, 3, SHORT)
    assert run(model, digits, 3, SHORT) == first
    assert run(model, digits, 4, SHORT) != first


def test_classes_are_not_answered_before_they_came(model: Model, digits: tuple[Examples, Examples]) -> None:
    taken: list[None] = []
    found = dict(split_mnist.run(model, *digits, PLAN, 0, lambda: taken.append(None)))
    assert list(found) == ["replay", "naive", "gdumb", "each", "shared", "neighbours", "mean", "waves"]
    for name in set(found) - {"gdumb"}:
        r = np.array(found[name].r)
        assert r.shape == (5, 5)
        assert (r[np.triu_indices(5, 1)] == 0).all()
        assert r[0, 0] > 0.5  # a choice between two
    assert np.array(found["gdumb"].r).shape == (1, 5)
    assert found["gdumb"].bwt is None
    assert len(taken) == split_mnist.steps(digits[0], PLAN) == sum(method.steps for method in found.values())


@pytest.mark.parametrize("capacity", [40, 0])
def test_no_more_is_stored_than_was_said(
    model: Model, digits: tuple[Examples, Examples], capacity: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, tested = digits
    learned: list[np.ndarray] = []
    monkeypatch.setattr(Stream, "_step", lambda _self, batch, _rate: learned.append(batch[1]))
    arriving = [np.flatnonzero(np.isin(training.labels, task)) for task in TASKS]
    plan = structs.replace(PLAN, stored=capacity, rehearsal=0)
    with closing(split_mnist.in_memory(model, capacity)) as learner:
        stream = split_mnist.begin(learner, 0, lambda: None)
        split_mnist.learn(learner, stream, training, arriving, tested, plan)
        stored = learner.store.ids(LEARNED)
        assert sum(map(len, learner.store.ids(BUNDLES, PENDING, LEARNED, REFUSED).values())) == capacity
        kept = [learner.store.read(ids) for ids in stored.values()]
    assert {label: len(ids) for label, ids in stored.items()} == (dict.fromkeys(range(10), 4) if capacity else {})
    known = {image.tobytes(): label for image, label in zip(training.pixels, training.labels, strict=True)}
    assert all(known[i.tobytes()] == n for some in kept for i, n in zip(some.pixels, some.labels, strict=True))
    last = {int(label) for label in learned[-1]}
    assert {8, 9} <= last if capacity else last == {8, 9}


def test_weights_begin_as_the_trainers(model: Model) -> None:
    before = model.bundle.weights()
    ours = {**before, **untrained_weights(model.manifest.network, np.random.default_rng(0))}
    patterns = {name: torch.from_numpy(before[name]) for name in before if name.startswith("labels.")}
    theirs = initialise(model.manifest.network, patterns, torch.Generator().manual_seed(0))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert (ours[name].shape, ours[name].dtype) == (tuple(tensor.shape), np.float32)
        if name.startswith("unit") and name.endswith(".weight"):
            assert ours[name].std() == pytest.approx(float(tensor.std()), rel=0.15)
        else:
            assert np.array_equal(ours[name], tensor.numpy()), name
