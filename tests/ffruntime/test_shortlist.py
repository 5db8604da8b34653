"""Mode `shortlist`: which labels are in play, what it costs, and which scores come of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from msgspec import structs
from pictures import CLASSES

from ffruntime.core.bundle import Bundle
from ffruntime.core.manifest import Shortlist
from ffruntime.core.state import Weights
from ffruntime.model import Model
from ffruntime.shortlist import in_play, most_plausible, passes, scores

LOGITS = np.array([[5.0, 4.0, 1.0, 3.0], [9.0, 0.0, 0.0, 1.0], [2.0, 2.0, 8.0, 7.5]], np.float32)


def test_labels_within_the_threshold_are_in_play() -> None:
    assert in_play(LOGITS, 1.0).tolist() == [
        [True, True, False, False],
        [True] + 3 * [False],
        [False] * 2 + [True] * 2,
    ]
    assert in_play(LOGITS, 0.0).sum() == 3


def test_the_classifiers_word_on_undertrained_labels_does_not_count() -> None:
    """They are always in play, and a large logit of theirs keeps no other label out."""
    assert in_play(LOGITS, 1.0, [0]).tolist() == [
        [True, True, False, True],
        [True, True, True, True],
        [True, False, True, True],
    ]


def test_the_most_plausible_labels() -> None:
    assert most_plausible(LOGITS, 2).sum(1).tolist() == [2, 2, 2]
    assert most_plausible(LOGITS, 2)[0].tolist() == [True, True, False, False]
    assert most_plausible(LOGITS, 1).argmax(1).tolist() == LOGITS.argmax(1).tolist()
    assert most_plausible(LOGITS, 9).all()


def test_a_label_alone_costs_one_pass_and_others_one_more_each() -> None:
    assert passes(in_play(LOGITS, 1.0)).tolist() == [3, 1, 3]
    assert passes(most_plausible(LOGITS, 4)).tolist() == [5, 5, 5]


def test_goodness_decides_between_the_labels_in_play_and_the_others_stand_below() -> None:
    totals = np.array([[10.0, 12.0, 99.0, 99.0], [99.0] * 4, [99.0, 99.0, -3.0, -4.0]])
    result = scores(LOGITS, in_play(LOGITS, 1.0), lambda rows, labels: totals[np.ix_(rows, labels)])
    assert result.argmax(1).tolist() == [1, 0, 2]
    np.testing.assert_array_equal(result[0], [10, 12, 10 - 4, 10 - 2])
    np.testing.assert_array_equal(result[1], LOGITS[1])  # a label alone: the classifier's answer stands
    np.testing.assert_array_equal(result[2], [-4 - 6, -4 - 6, -3, -4])


def test_images_with_the_same_labels_in_play_share_calls() -> None:
    calls = []

    def goodness(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        calls.append((rows.tolist(), labels.tolist()))
        return np.zeros((len(rows), len(labels)))

    scores(LOGITS[[0, 2, 1, 0]], in_play(LOGITS[[0, 2, 1, 0]], 1.0), goodness)
    assert calls == [([0, 3], [0, 1]), ([1], [2, 3])]


def with_threshold(path: Path, threshold: float, weights: Weights | None = None) -> Model:
    bundle = Bundle(path)
    bundle.manifest = structs.replace(bundle.manifest, shortlist=Shortlist(threshold, 1, 1))
    return Model(bundle, weights)


def test_every_label_in_play_is_goodness_and_one_is_the_classifier(exported: Path, images: np.ndarray) -> None:
    model = with_threshold(exported, 1e9)
    result, cost = model.scores_and_passes(images, "shortlist")
    np.testing.assert_allclose(result, model.scores(images, "goodness"), rtol=1e-5)
    assert set(cost.tolist()) == {7}
    result, cost = with_threshold(exported, 0.0).scores_and_passes(images, "shortlist")
    np.testing.assert_array_equal(result, model.scores(images, "classifier"))
    assert set(cost.tolist()) == {1}


def test_the_best_label_in_play_wins(exported: Path, images: np.ndarray) -> None:
    model = Model(exported)
    logits, goodness = (model.scores(images, mode) for mode in ("classifier", "goodness"))
    chosen = in_play(logits, model.manifest.shortlist.threshold)  # type: ignore[union-attr]
    expected = np.where(chosen, goodness, -np.inf).argmax(1)
    answers = model.classify_batch(images, "shortlist")
    assert [answer.label for answer in answers] == [model.classes[index] for index in expected]
    assert [answer.passes for answer in answers] == passes(chosen).tolist()
    assert 1 < np.mean(passes(chosen)) < 6


def test_undertrained_classes_are_always_tried(exported: Path, images: np.ndarray) -> None:
    """A class that was learned from few examples: the classifier's row for it still says it is not there."""
    model = with_threshold(exported, 0.0, Weights({}, (*CLASSES, "square"), frozenset({"square"})))
    assert {answer.passes for answer in model.classify_batch(images, "shortlist")} == {3}
    assert {answer.passes for answer in model.classify_batch(images, "shortlist", labels=1)} == {3}
    assert {answer.passes for answer in model.classify_batch(images, "shortlist", labels=2)} == {4}


def test_a_number_of_labels_overrides_the_threshold(exported: Path, images: np.ndarray) -> None:
    model = Model(exported)
    assert {answer.passes for answer in model.classify_batch(images, labels=4)} == {5}
    assert model.classify(images[0], labels=4).mode == "shortlist"
