"""A digit that a network was never shown, learned on the device from twenty images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from msgspec import structs

from ffexport.export import export_onnx
from ffruntime import Model
from ffruntime.datasets import data_directory
from fftrain.data import Dataset, load_dataset
from fftrain.pack import write_bundle
from fftrain.recipe import Recipe
from fftrain.train import start, train


def test_twenty_images_of_a_digit_never_seen_and_the_others_are_not_forgotten(
    dataset: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    """A network that was trained on 1 to 9, and zeros; every default, real images that were not learned from."""
    known = load_dataset("mnist", data_directory(None), "1-9")
    few = type(known.train)(known.train.pixels[:3200], known.train.labels[:3200])
    path = tmp_path / "model.ff"
    run = start(tiny_recipe, structs.replace(known, train=few), 0, torch.device("cpu"), torch.float32)
    for _ in train(run, path, resume=False, stop=lambda: False):
        pass
    write_bundle(path, run, "tiny", "cpu", "fp32", {})
    export_onnx(path)
    model, digits = Model(path), dataset.validation
    zeros = digits.pixels[digits.labels == 0].numpy()
    others, labels = digits.pixels[digits.labels > 0][:300].numpy(), digits.labels[digits.labels > 0][:300].numpy()
    before = model.scores(others, "shortlist").argmax(1) == labels - 1
    (outcome,) = model.learn(zeros[:20], ["0"] * 20)
    assert outcome.adopted
    assert model.classes == (*"1234567890",)
    for opened in (model, Model(path)):
        answers = opened.classify_batch(zeros[20:100], "shortlist")
        assert np.mean([answer.label == "0" for answer in answers]) > 0.7
        after = opened.scores(others, "shortlist").argmax(1) == labels - 1
        assert before.mean() > 0.8
        assert after.mean() > before.mean() - 0.1
