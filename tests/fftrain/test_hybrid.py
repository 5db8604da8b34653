"""Hybrid images: their masks, the two images in them, and the recipes that use them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from ffruntime.core.errors import UsageError
from fftrain.commands.show import negatives
from fftrain.dataset import Dataset
from fftrain.epoch import blurring, epoch_batches, hybrids, masks
from fftrain.network import neutral_features, to_images
from fftrain.override import Override
from fftrain.recipe import load_recipe
from fftrain.run import start
from fftrain.step import learn_head, training_step


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_blur_is_a_quarter_a_half_a_quarter_each_way() -> None:
    point = torch.zeros(8, 10)
    point[3, 4] = 1.0
    quarter = torch.tensor([0.25, 0.5, 0.25])
    expected = torch.zeros(8, 10)
    expected[2:5, 3:6] = quarter[:, None] * quarter
    assert torch.allclose(blurring(8, 1) @ point @ blurring(10, 1), expected)
    twice = blurring(8, 1) @ expected @ blurring(10, 1)
    assert torch.allclose(blurring(8, 2) @ point @ blurring(10, 2), twice)


def test_masks_are_half_ones_in_large_regions() -> None:
    """As likely one at every pixel; neighbours mostly alike, the more so the more they are blurred."""
    alike = []
    for blur in (1, 4, 10):
        mask = masks(6000, 28, 28, blur, generator())
        off = (mask.float().mean(0) - 0.5).abs().max()
        assert off < (0.03 if blur > 1 else 0.09)  # after one blur, many pixels are ½ exactly
        alike.append(float((mask[:, :, 1:] == mask[:, :, :-1]).float().mean()))
    assert alike[0] < alike[1] < alike[2]
    assert alike[2] > 0.85


def test_every_pixel_of_a_hybrid_is_of_one_image_or_the_other() -> None:
    pixels = torch.randint(256, (50, 3, 28, 28), generator=generator(1), dtype=torch.uint8)
    mixed = hybrids(pixels, 2, 10, generator())
    assert mixed.shape == (50, 2, 3, 28, 28)
    for step in (1, 2):
        one, other = pixels, pixels.roll(-step, 0)
        hybrid = mixed[:, step - 1]
        from_one = (hybrid == one).all(1)  # colours of a pixel stay together
        assert (from_one | (hybrid == other).all(1)).all()
        assert 0.4 < from_one.float().mean() < 0.6
    assert torch.equal(mixed, hybrids(pixels, 2, 10, generator()))


def test_batches_bring_their_hybrids(dataset: Dataset) -> None:
    recipe = load_recipe("hinton-unsupervised", [("negatives.count", 2)])
    few = type(dataset.train)(dataset.train.pixels[:300], dataset.train.labels[:300])
    whole = list(epoch_batches(few, recipe, 0, 0, skip=0))
    resumed = list(epoch_batches(few, recipe, 0, 0, skip=1))
    assert [batch.hybrids.shape for batch in whole] == [(100, 2, 1, 28, 28)] * 3  # type: ignore[union-attr]
    for one, two in zip(whole[1:], resumed, strict=True):
        assert one.hybrids is not None
        assert two.hybrids is not None
        assert torch.equal(one.hybrids, two.hybrids)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([("patterns.kind", "overlay")], "'hybrid' and patterns.kind 'none', or neither is"),
        ([("negatives.source", "classifier")], "'hybrid' and patterns.kind 'none', or neither is"),
        ([("schedule.head_lr", 0)], "images have no labels, so nothing would tell classes apart"),
    ],
)
def test_recipes_that_could_not_learn(fields: list, message: str, dataset: Dataset) -> None:
    with pytest.raises(UsageError, match=message):
        start(load_recipe("hinton-unsupervised", fields), dataset, 0, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("gradient", ["local", "crossing"])
def test_the_classifier_learns_from_the_pass_of_the_images(gradient: str, dataset: Dataset) -> None:
    """As from a pass of its own, with the weights before the step."""
    fields: list[Override] = [("network.units.*.ops.0.out", 12), ("peer.weight", 0), ("gradient", gradient)]
    recipe = load_recipe("hinton-unsupervised", fields)
    few = type(dataset.train)(dataset.train.pixels[:100], dataset.train.labels[:100])
    (batch,) = epoch_batches(few, recipe, 0, 0, skip=0)
    one, own = (start(recipe, dataset, 0, torch.device("cpu"), torch.float32) for _ in range(2))
    figures = training_step(one, batch, torch.tensor(0.0))
    with torch.no_grad():
        images = to_images(batch.pixels, own.network, torch.float32)
        _, report = learn_head(own, neutral_features(own.network, own.tensors, images), batch.labels)
    assert figures[-1].tolist() == pytest.approx(report.tolist(), rel=1e-5)
    for name in ("head.weight", "head.bias"):
        assert one.tensors[name].any()
        torch.testing.assert_close(one.tensors[name], own.tensors[name], rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_the_picture_of_hybrids(tmp_path: Path) -> None:
    out = tmp_path / "negatives.png"
    arguments = ["--count", "4", "--out", str(out), "--json"]
    done = CliRunner().invoke(negatives, arguments, catch_exceptions=False)
    assert json.loads(done.stdout) == {
        "picture": str(out),
        "recipe": "hinton-unsupervised",
        "blur": load_recipe("hinton-unsupervised").negatives.blur,
        "count": 4,
    }
    with Image.open(out) as picture:
        assert picture.height > 4 * 80
    with pytest.raises(UsageError, match="its negatives are wrong labels"):
        CliRunner().invoke(negatives, ["--recipe", "cpu"], catch_exceptions=False)
