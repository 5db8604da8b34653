"""Class maps: what each pixel adds to a unit's goodness of a class, exactly."""

from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import in_process_text
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ffruntime.class_maps import Place, class_map, class_maps, on_image, picture, places
from ffruntime.core.architecture import EPS_DIVISIVE, Readout, readout_cells
from ffruntime.model import Model
from ffruntime.session import Session

explain = partial(in_process_text, "ffruntime", "explain")


@pytest.fixture(scope="module")
def model(class_bundle: Path) -> Model:
    return Model(class_bundle, session=Session(threads=1), state=False)


@given(st.integers(1, 9), st.integers(1, 7), st.integers(1, 4), st.integers(0, 1000))
def test_a_map_adds_up_to_the_goodness(height: int, width: int, cells: int, seed: int) -> None:
    """Against cells averaged one by one."""
    rng = np.random.default_rng(seed)
    activation, readout = rng.normal(size=(2, 3, height, width)), Readout(cells)
    _, down, across = readout_cells(readout, (3, height, width))
    means = np.empty((2, 3, down, across))
    for i, j in np.ndindex(down, across):
        rows = slice(i * height // down, (i + 1) * height // down)
        columns = slice(j * width // across, (j + 1) * width // across)
        means[:, :, i, j] = activation[:, :, rows, columns].mean((2, 3))
    flat, row = means.reshape(2, -1), rng.normal(size=3 * down * across)
    goodness = flat / np.sqrt((flat**2).mean(1, keepdims=True) + EPS_DIVISIVE) @ row
    np.testing.assert_allclose(class_map(activation, row, readout).sum((1, 2)), goodness, atol=1e-9)


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 3), st.sampled_from([1.0, 2.0, 4.0]))
def test_a_map_on_the_image_has_the_same_sum(height: int, width: int, offset: float, stride: float) -> None:
    values = np.random.default_rng(0).normal(size=(height, width))
    spread = on_image(values, Place(offset, stride), 16, 12)
    assert spread.shape == (16, 12)
    np.testing.assert_allclose(spread.sum(), values.sum(), atol=1e-9)


def test_maps_of_a_network_are_exact(model: Model, images: np.ndarray) -> None:
    """Of every unit, and weighed as in the total: that of the goodness graph."""
    assert places(model.manifest.network) == [Place(0.5, 2), Place(1.5, 4), Place(1.5, 4)]
    scores = model.scores(images[:1])[0]
    for label, maps in class_maps(model, images[0], [0, 4]).items():
        assert [one.unit for one in maps] == ["unit2", "unit3"]
        for one in maps:
            assert one.map is not None
            assert one.on_image is not None
            assert (one.map.shape, one.on_image.shape) == ((4, 4), (16, 16))
            assert one.map.sum() + one.bias == pytest.approx(one.goodness, abs=1e-4)
            assert one.on_image.sum() == pytest.approx(one.map.sum(), abs=1e-4)
        assert sum(one.weight * one.goodness for one in maps) == pytest.approx(scores[label], abs=1e-4)


def test_the_picture_has_a_row_for_each_class(model: Model, images: np.ndarray) -> None:
    maps = class_maps(model, images[0], [0, 4])
    image = Image.open(io.BytesIO(picture(images[0], {"bar": maps[0], "ring": maps[4]})))
    pixels = np.asarray(image.convert("RGB"))
    assert image.width > image.height > 300  # three maps beside each other, two rows
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_the_command_explains_an_image(
    model: Model, exported: Path, class_bundle: Path, picture_files: list[Path], tmp_path: Path
) -> None:
    run = partial(explain, "--model", class_bundle, "--shipped", cwd=tmp_path)
    done = run(picture_files[0])
    assert done.returncode == 0, done.stderr
    first, second, last = done.stdout.splitlines()
    (answer,) = model.classify_batch(model.read(str(picture_files[0]))[None])
    assert first.startswith(f"{answer.label}: goodness {answer.scores[answer.label]:.3f} = ")
    assert second.startswith(f"{list(answer.scores)[1]}: goodness ")
    assert last == f"{picture_files[0].stem}.map.png written"
    assert (tmp_path / f"{picture_files[0].stem}.map.png").exists()
    found = json.loads(run(picture_files[0], "--label", "dots", "--json", "--out", "own.png").stdout)
    assert list(found["labels"]) == ["dots", answer.label]
    unit = found["labels"]["dots"]["units"]["unit2"]
    assert np.sum(unit["map"]) + unit["bias"] == pytest.approx(unit["goodness"], abs=1e-4)
    for arguments, message in (
        ((picture_files[0], "--label", "dot"), "error: unknown class 'dot': did you mean 'dots'?"),
        (("--label", "dots"), "error: --label: of which image?"),
        ((picture_files[0], "--model", exported), "has no class goodness, so no exact map of one image"),
    ):
        refused = run(*arguments)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert message in refused.stderr


def test_accuracy_is_explained_of_both_kinds(class_bundle: Path, tmp_path: Path) -> None:
    done = explain("--model", class_bundle, "--images", 6, "--window", 9, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["mode"] == "goodness"
