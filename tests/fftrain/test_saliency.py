"""Class activation maps: they add up to the logit, lie where they belong, and `fftrain explain` draws them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from PIL import Image as Picture
from safetensors.torch import save

from ffruntime.core.architecture import (
    Conv,
    Image,
    Input,
    Label,
    Linear,
    MaxPool,
    Network,
    Op,
    Relu,
    Unit,
    validate,
)
from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.errors import FFError, UsageError
from ffruntime.core.layers import tensor_shapes
from ffruntime.core.manifest import WEIGHTS
from ffruntime.model import Model
from ffruntime.saliency import occlude
from fftrain import network as net
from fftrain.activation_maps import class_activation_maps, on_image, together
from fftrain.commands.explain import explain
from fftrain.dataset import load_for_manifest
from fftrain.functional import Tensors
from fftrain.network import initialise

SIDE, CLASSES = 12, 3


def random_network(units: tuple[Unit, ...], seed: int) -> tuple[Network, Tensors]:
    """Weights, classifier and pattern all at random, in float64."""
    network = Network(Image((1, SIDE, SIDE)), Label("channel", CLASSES), units)
    validate(network)
    random = torch.Generator().manual_seed(seed)
    patterns = {"labels.patterns": torch.randn(CLASSES, 1, SIDE, SIDE, generator=random)}
    patterns["labels.neutral"] = patterns["labels.patterns"].mean(0)
    tensors = initialise(network, patterns, random)
    for name in ("head.weight", "head.bias"):
        tensors[name] = torch.randn(tensors[name].shape, generator=random)
    return network, {name: tensor.double() for name, tensor in tensors.items()}


@st.composite
def units(draw: st.DrawFn) -> tuple[Unit, ...]:
    """One to three units, scored or not, with or without pixels; the last one is scored."""
    made, count, flat = [], draw(st.integers(1, 3)), False
    for index in range(count):
        flat = flat or draw(st.integers(0, 3)) == 0
        convolution = Conv(draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 2)), 2)
        pool: tuple[Op, ...] = (MaxPool(2),) if draw(st.booleans()) else ()
        ops: tuple[Op, ...] = (Linear(4), Relu()) if flat else (convolution, *pool, Relu())
        scored = index == count - 1 or draw(st.booleans())
        made.append(Unit(ops, (Input(normalise=draw(st.sampled_from(["none", "divisive"]))),), scored=scored))
    return tuple(made)


@settings(max_examples=40)
@given(units(), st.integers(0, CLASSES - 1), st.integers(0, 100))
def test_maps_and_what_has_no_map_add_up_to_the_logit(layers: tuple[Unit, ...], label: int, seed: int) -> None:
    try:
        network, tensors = random_network(layers, seed)
    except FFError:
        return  # nothing is left of the image
    images = torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)).double()
    maps = class_activation_maps(network, tensors, images, label)
    _, logits = net.classify_linear(network, tensors, images)
    total = sum(m.total for m in maps) + tensors["head.bias"][label]
    assert torch.allclose(total, logits[:, label], atol=1e-9)
    spatial = [m for m in maps if m.map is not None]
    for m in spatial:
        assert m.map is not None
        assert torch.allclose(m.map.sum((1, 2)), m.total, atol=1e-9)
        assert torch.allclose(on_image(m, SIDE, SIDE).sum((1, 2)), m.total, atol=1e-6)  # drawing loses nothing
    if spatial:
        drawn = together(maps, SIDE, SIDE)
        assert drawn.shape == (2, SIDE, SIDE)
        assert torch.allclose(drawn.sum((1, 2)), sum(m.total for m in spatial), atol=1e-6)


@pytest.mark.parametrize(
    ("ops", "pixel"),
    [
        ((Conv(1, 3, padding=1), Relu()), (4, 7)),
        ((Conv(1, 5), Relu()), (4, 7)),  # without padding, the map is smaller than the image
        ((Conv(1, 3, stride=2, padding=1), Relu()), (4, 8)),
        ((Conv(1, 3, padding=1), Relu(), Conv(1, 5, stride=2), Relu()), (4, 8)),
    ],
)
def test_a_map_lies_where_the_image_has_the_reason(ops: tuple[Op, ...], pixel: tuple[int, int]) -> None:
    network, tensors = random_network((Unit(ops, (Input(normalise="none"),)),), 0)
    for name, tensor in tensors.items():  # every convolution hands on the centre of its window
        if name.startswith("unit1.conv"):
            tensor.zero_()
            if name.endswith("weight"):
                tensor[0, 0, tensor.shape[2] // 2, tensor.shape[3] // 2] = 1
    tensors["head.weight"].fill_(1)
    images = torch.zeros(1, 1, SIDE, SIDE).double()
    images[0, 0, pixel[0], pixel[1]] = 1
    drawn = together(class_activation_maps(network, tensors, images, 0), SIDE, SIDE)[0]
    assert divmod(int(drawn.argmax()), SIDE) == pixel


def test_pooled_maps_are_centred_on_their_windows() -> None:
    network, tensors = random_network((Unit((Conv(1, 1), MaxPool(4), Relu()), (Input(normalise="none"),)),), 0)
    (m,) = class_activation_maps(network, tensors, torch.rand(1, 1, SIDE, SIDE).double(), 0)
    assert m.place == (1.5, 4.0)


def run_explain(*arguments: object) -> Result:
    return CliRunner().invoke(explain, [*map(str, arguments)], catch_exceptions=False)


def test_explain_draws_the_answer_and_the_runner_up(
    exported: Path, digit_files: list[Path], tmp_path: Path
) -> None:
    target = tmp_path / "maps.png"
    done = run_explain(exported, digit_files[0], "--no-preprocess", "--out", target, "--json")
    result = json.loads(done.stdout)
    answer, other = result["labels"].values()
    assert next(iter(result["labels"])) == result["answer"]
    assert answer["logit"] > other["logit"]
    for label in (answer, other):
        total = sum(unit["total"] for unit in label["units"].values())
        assert total + label["bias"] == pytest.approx(label["logit"], abs=1e-4)
        assert len(label["units"]["unit2"]["map"]) == 7  # 28 / 2 / 2
        assert label["units"]["unit3"]["map"] is None
    picture = Picture.open(io.BytesIO(target.read_bytes())).convert("RGB")
    assert picture.width > 500
    colours = picture.resize((60, 60)).getcolors(3600)
    assert colours
    assert any(r > g + 20 > b + 40 for _, (r, g, b) in colours)  # orange
    assert any(b > g + 20 for _, (_, g, b) in colours)  # purple


def test_explain_takes_a_label_and_says_what_has_no_map(
    exported: Path, digit_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_explain(exported, digit_files[0], "--label", "8")
    assert done.stdout.startswith("8: logit ")
    assert "unit3" in done.stderr
    assert (tmp_path / f"{digit_files[0].stem}.cam.png").exists()
    with pytest.raises(UsageError, match="class 'eight'"):
        run_explain(exported, digit_files[0], "--label", "eight")


@pytest.mark.slow
def test_explain_accuracy(exported: Path, tmp_path: Path) -> None:
    """Torch finds what the device's graphs find: the same images, hidden pixels and answers."""
    out = tmp_path / "accuracy.png"
    words = ("--method", "ads", "--images", 30, "--window", 7, "--mode", "classifier")
    done = run_explain(exported, *words, "--out", out, "--json")
    result = json.loads(done.stdout)
    assert (result["images"], result["window"], result["mode"]) == (30, 7, "classifier")
    dataset = load_for_manifest(Bundle(exported).manifest)
    images, labels = (x[:30].numpy() for x in (dataset.validation.pixels, dataset.validation.labels))
    model = Model(exported, state=False)
    found = occlude(lambda x: model.scores(x, "classifier"), images, labels, 10, 7)
    assert np.abs(np.array(result["saliency"]["all"]["map"]) - found.overall).max() <= 1 / 30 + 1e-9
    assert out.exists()


def test_explain_needs_an_image_or_many(exported: Path, digit_files: list[Path]) -> None:
    with pytest.raises(UsageError, match="one image: which one"):
        run_explain(exported)
    with pytest.raises(UsageError, match="leave out IMAGE"):
        run_explain(exported, digit_files[0], "--method", "ads")


def test_explain_refuses_what_has_no_map_at_all(bundle: Path, digit_files: list[Path]) -> None:
    manifest = Bundle(bundle).manifest
    write_bundle(bundle, structs.replace(manifest, modes=("goodness",)), {})
    with pytest.raises(UsageError, match="without a linear classifier"):
        run_explain(bundle, digit_files[0])
    flat = structs.replace(manifest.network, units=(Unit((Linear(5), Relu())),))
    zeros = {name: torch.zeros(shape) for name, shape in tensor_shapes(flat).items()}
    write_bundle(bundle, structs.replace(manifest, network=flat), {WEIGHTS: save(zeros)})
    with pytest.raises(UsageError, match="unit1: no scored unit has pixels"):
        run_explain(bundle, digit_files[0])
