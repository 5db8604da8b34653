"""The corrupted training set: its shares, what each kind does, and the same seed twice."""

from __future__ import annotations

import pytest
import torch
from corruption import KINDS, corrupt

from ffruntime.core.data import Examples
from fftrain.dataset import Dataset


@pytest.fixture(scope="module")
def few(dataset: Dataset) -> Examples:
    return Examples(dataset.train.pixels[:2000], dataset.train.labels[:2000])


def test_a_quarter_of_each_kind_and_the_originals_untouched(few: Examples) -> None:
    before = few.pixels.clone()
    made, kind = corrupt(few, 0.5, 0.5, seed=3)
    assert made.pixels.shape == few.pixels.shape
    assert made.pixels.dtype == torch.uint8
    assert made.labels.shape == few.labels.shape
    assert kind.bincount().tolist() == [500] * len(KINDS)
    assert torch.equal(few.pixels, before)


def test_what_each_kind_does(few: Examples) -> None:
    made, kind = corrupt(few, 0.5, 0.3, seed=3)
    same = (made.pixels == few.pixels).flatten(1).float().mean(1)
    clean, noisy, dead, random = (kind == index for index in range(len(KINDS)))
    assert torch.equal(made.labels[~random], few.labels[~random])
    assert (made.labels[random] == few.labels[random]).float().mean() == pytest.approx(0.1, abs=0.05)
    assert (same[clean] == 1).all()
    # A black pixel stays black where the noise is negative.
    assert same[noisy].mean() == pytest.approx(0.5, abs=0.1)
    difference = made.pixels[noisy].float() - few.pixels[noisy].float()
    grey = few.pixels[noisy] == 128
    assert difference[grey].std() == pytest.approx(0.5 * 255, rel=0.3)
    lit = few.pixels[dead] > 0
    assert (made.pixels[dead][lit] == 0).float().mean() == pytest.approx(0.3, abs=0.01)
    assert torch.equal(made.pixels[dead][made.pixels[dead] > 0], few.pixels[dead][made.pixels[dead] > 0])
    assert made.pixels[random].float().mean() == pytest.approx(127.5, abs=1)
    assert same[random].mean() < 0.02


def test_the_same_seed_gives_the_same_images_and_another_one_others(few: Examples) -> None:
    (one, kinds), (two, _), (other, _) = (corrupt(few, 0.5, 0.5, seed) for seed in (3, 3, 4))
    assert torch.equal(one.pixels, two.pixels)
    assert torch.equal(one.labels, two.labels)
    assert not torch.equal(one.pixels, other.pixels)
    assert kinds.unique().tolist() == [0, 1, 2, 3]
