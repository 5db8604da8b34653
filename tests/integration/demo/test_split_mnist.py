"""Split-MNIST on a tiny network: the protocol, not the figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import structs

from ffruntime.bundle import read_weights
from ffruntime.demo import split_mnist
from ffruntime.demo.mnist_files import Digits, load
from ffruntime.demo.split_mnist import TASKS, Method, Plan
from ffruntime.demo.student import Student
from ffruntime.demo.student import untrained as untrained_weights
from ffruntime.model import Model
from fftrain.network import initialise

pytestmark = pytest.mark.slow

PLAN = Plan(stored=40, arriving=32, per_task=96, rehearsal=3, gdumb=5, goodness=30)
SHORT = Plan(stored=40, arriving=32, per_task=32, rehearsal=1, gdumb=1, goodness=10)


@pytest.fixture(scope="module")
def model(untrained: Path) -> Model:
    return Model(untrained, threads=1, state=False)


@pytest.fixture(scope="module")
def digits(data: Path) -> tuple[Digits, Digits]:
    training, tested = load(data, "test")
    return training, tested.take(np.arange(120))


def run(model: Model, digits: tuple[Digits, Digits], seed: int, plan: Plan = PLAN) -> dict[str, Method]:
    found = split_mnist.run(model, *digits, plan, seed, lambda: None)
    return {name: structs.replace(method, seconds=0.0) for name, method in found}


def test_a_seed_is_a_run(model: Model, digits: tuple[Digits, Digits]) -> None:
    first = run(model, digits, 3, SHORT)
    assert run(model, digits, 3, SHORT) == first
    assert run(model, digits, 4, SHORT) != first


def test_classes_are_not_answered_before_they_came(model: Model, digits: tuple[Digits, Digits]) -> None:
    taken: list[None] = []
    found = dict(split_mnist.run(model, *digits, PLAN, 0, lambda: taken.append(None)))
    assert list(found) == ["replay", "naive", "gdumb"]
    for name in ("replay", "naive"):
        r = np.array(found[name].r)
        assert r.shape == (5, 5)
        assert (r[np.triu_indices(5, 1)] == 0).all()
        assert r[0, 0] > 0.5  # a choice between two
    assert np.array(found["gdumb"].r).shape == (1, 5)
    assert found["gdumb"].bwt is None
    assert len(taken) == split_mnist.steps(digits[0], PLAN) == sum(method.steps for method in found.values())


@pytest.mark.parametrize("capacity", [40, 0])
def test_no_more_is_stored_than_was_said(
    model: Model, digits: tuple[Digits, Digits], capacity: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, tested = digits
    learned: list[Digits] = []
    monkeypatch.setattr(Student, "step", lambda _self, digits, *_rate: learned.append(digits))
    stream = [np.flatnonzero(np.isin(training.labels, task)) for task in TASKS]
    student = Student(model, split_mnist.SETTINGS, {}, np.random.default_rng(0))
    plan = structs.replace(PLAN, stored=capacity, rehearsal=0)
    _, stored = split_mnist.learn(student, training, stream, tested, plan, np.random.default_rng(0))
    assert sum(map(len, stored.values())) == capacity
    assert [len(places) for _, places in sorted(stored.items())] == [capacity // 10] * 10
    assert all((training.labels[places] == label).all() for label, places in stored.items() if places)
    last = {int(label) for label in learned[-1].labels}
    assert {8, 9} <= last if capacity else last == {8, 9}


def test_weights_begin_as_the_trainers(model: Model) -> None:
    before = read_weights(model.path, model.manifest)
    ours = untrained_weights(before, np.random.default_rng(0))
    patterns = {name: torch.from_numpy(before[name]) for name in before if name.startswith("labels.")}
    theirs = initialise(model.manifest.network, patterns, torch.Generator().manual_seed(0))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert (ours[name].shape, ours[name].dtype) == (tuple(tensor.shape), np.float32)
        if name.startswith("unit") and name.endswith(".weight"):
            assert ours[name].std() == pytest.approx(float(tensor.std()), rel=0.15)
        else:
            assert np.array_equal(ours[name], tensor.numpy()), name
