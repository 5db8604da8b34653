"""The Python interface."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ffruntime import Model
from ffruntime.errors import UsageError
from fftrain.evaluate import classifier_scores, goodness_scores
from fftrain.train import Run


@pytest.fixture(scope="module")
def model(exported: Path) -> Model:
    return Model(exported)


@pytest.mark.parametrize("mode", ["goodness", "classifier"])
def test_scores_are_the_trainers(mode: str, model: Model, trained_run: Run) -> None:
    pixels = trained_run.dataset.validation.pixels[:50]
    score = {"goodness": goodness_scores, "classifier": classifier_scores}[mode]
    expected = score(trained_run.network, trained_run.tensors, pixels, 10).numpy()
    np.testing.assert_allclose(model.scores(pixels.numpy(), mode), expected, rtol=1e-4, atol=1e-4)


def test_a_batch_is_its_images_one_by_one(model: Model, trained_run: Run) -> None:
    pixels = trained_run.dataset.validation.pixels[:37].numpy()
    together = model.scores(pixels)
    alone = np.concatenate([model.scores(image[None]) for image in pixels])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


def test_threads_share_a_model(exported: Path, trained_run: Run) -> None:
    model = Model(exported)  # nothing loaded yet: threads race for that too
    pixels = trained_run.dataset.validation.pixels[:24].numpy()
    with ThreadPoolExecutor(8) as pool:
        labels = list(pool.map(lambda image: model.classify(image).label, pixels))
    assert labels == [answer.label for answer in model.classify_batch(pixels)]


def test_files_and_arrays(model: Model, digit_files: list[Path], trained_run: Run) -> None:
    image = trained_run.dataset.validation.pixels[0].numpy()
    assert model.classify(digit_files[0], preprocess=False).scores == model.classify(image).scores


def test_unknown_mode(model: Model) -> None:
    with pytest.raises(UsageError, match="unknown mode 'fast'"):
        model.scores(np.zeros((1, 1, 28, 28), np.uint8), "fast")  # type: ignore[arg-type]
