"""What the scored units weigh in the total of class goodness, and logits beside goodness."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from fftrain.weighing import candidates, weigh_logits, weigh_units


def goodness_of(answers: list[list[int]], sure: list[float]) -> np.ndarray:
    """Images × units of answers -> goodness (N, 3, U), the answer's higher by what the unit is sure of."""
    found = np.zeros((len(answers), 3, len(sure)))
    for image, row in enumerate(answers):
        for unit, answer in enumerate(row):
            found[image, answer, unit] = sure[unit]
    return found


def test_units_that_are_always_right_count_alone() -> None:
    labels = np.array([0, 1, 2, 0])
    wrong = (labels + 1) % 3
    found = weigh_units(goodness_of(np.stack([labels, wrong], 1).tolist(), [1, 3]), labels, [0, 1], [0.1, 0.2])
    assert found.name == "unit1 alone"
    assert found.weights == (1, 0)
    assert found.accuracy == 1


def test_thousands_of_classes_take_no_more_memory_than_ten() -> None:
    """Beside the goodness itself: (N, C, candidates) of all images would be 90 MB here, and 1.1 GB of ten times as
    many."""
    goodness = np.random.default_rng(0).normal(size=(150, 2000, 3)).astype(np.float32)
    tracemalloc.start()
    try:
        weigh_units(goodness, np.arange(150), [0, 1, 2], [0.1, 0.2, 0.3])
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()


def test_of_equals_the_simplest_is_chosen() -> None:
    labels = np.array([0, 1, 2])
    found = weigh_units(
        goodness_of(np.stack([labels] * 3, 1).tolist(), [1, 1, 1]), labels, [1, 2], [np.nan, 0.1, 0.2]
    )
    assert found.name == "all scored units alike"
    assert found.weights == (0, 1, 1)


def test_a_grid_finds_what_no_simple_weighing_does() -> None:
    """Unit 3 overrules the others unless it counts half; alone, each is often wrong."""
    labels = np.array([0, 0, 0, 0])
    answers = [[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1]]
    found = weigh_units(goodness_of(answers, [1.0, 1.0, 2.5]), labels, [0, 1, 2], [0.1, 0.1, 3.0])
    assert found.accuracy == 1
    assert found.weights[2] < found.weights[0] + found.weights[1]


def test_candidates_in_their_order() -> None:
    goodness = goodness_of([[0, 1, 2], [1, 1, 2]], [1.0, 2.0, 4.0])
    names = [name for name, _ in candidates(goodness, [0, 1, 2], [0.3, 0.2, 0.1])]
    assert names[:9] == [
        "all scored units alike",
        "unit3 alone",
        "unit2 alone",
        "unit1 alone",
        "unit1 to unit2",
        "unit1 to unit3",
        "unit2 to unit3",
        "softmax of minus the training losses",
        "each over its deviation",
    ]
    rows = dict(candidates(goodness, [0, 1, 2], [0.3, 0.2, 0.1]))
    shares = np.exp([-0.3, -0.2, -0.1])
    np.testing.assert_allclose(rows["softmax of minus the training losses"], shares / shares.sum())
    np.testing.assert_allclose(rows["each over its deviation"], [1, 0.5, 0.25])
    assert not any("softmax" in name for name, _ in candidates(goodness, [0, 2], [np.nan, 0.2, 0.1]))


@pytest.mark.parametrize("scored", [[1], [0, 1, 2, 3, 4, 5, 6]])
def test_without_images_all_units_count_alike(scored: list[int]) -> None:
    found = weigh_units(np.zeros((0, 10, 7)), np.zeros(0, int), scored, [0.1] * 7)
    assert found.weights == tuple(float(unit in scored) for unit in range(7))
    assert found.accuracy == 0


def test_logits_weigh_what_helps() -> None:
    """Goodness that is right where logits are not sure, and logits that are right where goodness is not."""
    labels = np.array([0, 1, 0, 1])
    goodness = np.array([[5.0, 0], [0, 5], [1, 1.5], [1.5, 1]])
    logits = np.array([[0.0, 10], [10, 0], [30, 0], [0, 30]])
    weight = weigh_logits(goodness, logits, labels)
    assert weight > 0
    assert ((goodness + weight * logits).argmax(1) == labels).all()


def test_logits_that_do_not_help_weigh_nothing() -> None:
    labels = np.array([0, 1])
    right, wrong = np.array([[1.0, 0], [0, 1]]), np.array([[0.0, 1], [1, 0]])
    assert weigh_logits(right, wrong, labels) == 0
    assert weigh_logits(right, right, labels) == 0  # the least of equals
    assert weigh_logits(right, np.zeros((2, 2)), labels) == 0
