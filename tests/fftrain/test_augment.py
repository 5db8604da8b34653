"""Training images changed: moved, turned, enlarged and mirrored, as uint8."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from ffruntime.core.learning import Augment
from fftrain.dataset import Dataset
from fftrain.epoch import augment, turn_images


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(6)


def test_nothing_asked_nothing_changed(dataset: Dataset) -> None:
    pixels = dataset.train.pixels[:10]
    assert torch.equal(augment(Augment(), pixels, generator()), pixels)


def test_turning_by_nothing_and_by_quarters(dataset: Dataset) -> None:
    pixels, ones = dataset.train.pixels[:10], torch.ones(10)
    assert torch.equal(turn_images(pixels, torch.zeros(10), ones), pixels)
    turned = turn_images(pixels, torch.full((10,), math.pi / 2), ones)
    assert (turned.int() - pixels.rot90(1, (2, 3)).int()).abs().max() <= 1


def test_enlarging_keeps_the_centre_and_shrinking_what_there_is(dataset: Dataset) -> None:
    pixels = dataset.train.pixels[:50]
    larger = turn_images(pixels, torch.zeros(50), torch.full((50,), 1.25)).double().sum()
    smaller = turn_images(pixels, torch.zeros(50), torch.full((50,), 0.8)).double().sum()
    assert 1.3 < larger / pixels.double().sum() < 1.6  # 1.25², less what leaves the image
    assert 0.6 < smaller / pixels.double().sum() < 0.68  # 0.8²


def test_half_of_the_images_are_mirrored(dataset: Dataset) -> None:
    pixels = dataset.train.pixels[:400]
    flipped = augment(Augment(flip=True), pixels, generator())
    same = (flipped == pixels).flatten(1).all(1)
    assert torch.equal(flipped[~same], pixels[~same].flip(3))
    assert 140 < int(same.sum()) < 260


@given(
    shift=st.integers(0, 4),
    rotate=st.floats(0, 180),
    scale=st.floats(0, 0.9),
    flip=st.booleans(),
    channels=st.sampled_from([1, 3]),
    size=st.tuples(st.integers(5, 20), st.integers(5, 20)),
)
def test_any_change_keeps_shape_and_type_and_is_repeatable(
    shift: int, rotate: float, scale: float, flip: bool, channels: int, size: tuple[int, int]
) -> None:
    pixels = torch.randint(256, (6, channels, *size), dtype=torch.uint8, generator=generator())
    kind = Augment(shift, rotate, scale, flip)
    changed = augment(kind, pixels, generator())
    assert changed.shape == pixels.shape
    assert changed.dtype == torch.uint8
    assert torch.equal(changed, augment(kind, pixels, generator()))
