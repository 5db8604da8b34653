"""A stranger reads a bundle: written from `docs/bundle.md` alone, with nothing of ours and no safetensors.

(What is imported from fftrain and ffruntime only makes bundles to be read.)

Where this fails, the document and the code have drifted apart.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
import pytest
import torch
from msgspec import structs
from numpy.lib.stride_tricks import sliding_window_view

from ffruntime.core.bundle import write_bundle
from ffruntime.core.calibration import Calibration, Distances, OfScores
from ffruntime.core.data import Examples
from ffruntime.core.manifest import EarlyExit
from fftrain.dataset import Dataset
from fftrain.pack import pack_run
from fftrain.recipe import Recipe, load_recipe, with_epochs
from fftrain.run import start, train

DOCUMENT = Path(__file__).parents[1] / "docs" / "bundle.md"
RECIPE = DOCUMENT.with_name("recipe.md")  # what of the manifest is for information
DTYPES = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "I64": "<i8", "I8": "i1", "U8": "u1"}
MAPS = (
    "files",
    "accuracy",
    "made_with",
    "calibration.scores",
    "calibration.units",
)  # JSON objects whose keys are data, not fields

Tensors: TypeAlias = dict[str, np.ndarray]
Json: TypeAlias = dict[str, Any]


# ---------------------------------------- reading ----------------------------------------


def read_manifest(path: Path) -> Json:
    manifest: Json = json.loads((path / "manifest.json").read_bytes())
    assert manifest["format"] == 1
    assert "weights.safetensors" in manifest["files"]
    for name, entry in manifest["files"].items():
        data = (path / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["size"], entry["sha256"]), name
    return manifest


def read_safetensors(file: Path) -> Tensors:
    data = file.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    tensors: Tensors = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = entry["data_offsets"]
        assert begin == end, "tensors follow each other without a gap"
        tensor = np.frombuffer(data[8 + length + begin : 8 + length + stop], DTYPES[entry["dtype"]])
        tensors[name], end = tensor.reshape(entry["shape"]), stop
    assert 8 + length + end == len(data)
    return tensors


# ---------------------------------------- arithmetic, in float64 ----------------------------------------


def per_sample(reduce: Any, x: np.ndarray) -> np.ndarray:
    return reduce(x, axis=tuple(range(1, x.ndim)), keepdims=True)


def divisive(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(per_sample(np.mean, x**2) + 1e-8)


def per_channel(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    return values.reshape(-1, *[1] * (x.ndim - 2))


def embed(network: Json, tensors: Tensors, images: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """Pixels uint8 (N, C, H, W) with one label's pattern (P, H, W) -> the first unit's input."""
    x = (images.astype(np.float32) / 255 - network["image"]["mean"]) / network["image"]["std"]
    x = x.astype(np.float64)
    if network["label"]["placement"] in ("top", "readout"):
        pass
    elif network["label"]["placement"] == "channel":
        x = np.concatenate([x, np.broadcast_to(pattern, (len(x), *pattern.shape))], axis=1)
    elif network["label"]["placement"] == "morphology":
        x = tensors["labels.keep"] * x + (1 - tensors["labels.keep"]) * morphology(x, pattern[0])
    else:
        x = tensors["labels.keep"] * x + pattern
    if network["label"]["normalise"] == "range":
        low, high = per_sample(np.min, x), per_sample(np.max, x)
        x = (x - low) / (high - low + 1e-8)
    return x


def morphology(x: np.ndarray, element: np.ndarray) -> np.ndarray:
    size = len(element)
    r = size // 2
    dilates = element[r, r] > 0
    x = np.pad(x, ((0, 0), (0, 0), (r, r), (r, r)), constant_values=-np.inf if dilates else np.inf)
    reached = windows(x, size, 1)[..., element != 0]  # (N, C, H, W, pixels of the element)
    return reached.max(-1) if dilates else reached.min(-1)


def normalise(network: Json, tensors: Tensors, k: int, x: np.ndarray) -> np.ndarray:
    kind = network["units"][k - 1]["inputs"][0]["normalise"]
    if kind == "batch":
        mean, var = (per_channel(tensors[f"unit{k}.below.{name}"], x) for name in ("mean", "var"))
        return (x - mean) / np.sqrt(var + 1e-5)
    if kind in ("layer", "group", "instance"):
        groups = {"layer": 1, "group": network["units"][k - 1]["inputs"][0]["groups"], "instance": x.shape[1]}[kind]
        parts = x.reshape(len(x), groups, -1)
        parts = (parts - parts.mean(2, keepdims=True)) / np.sqrt(parts.var(2, keepdims=True) + 1e-5)
        return parts.reshape(x.shape)
    return {"none": lambda x: x, "divisive": divisive}[kind](x)


def windows(x: np.ndarray, size: int, stride: int) -> np.ndarray:
    return sliding_window_view(x, (size, size), axis=(2, 3))[:, :, ::stride, ::stride]  # (N, C, H', W', u, v)


def apply(op: Json, name: str, tensors: Tensors, x: np.ndarray) -> np.ndarray:
    if op["op"] == "relu":
        return np.maximum(x, 0)
    if op["op"] == "leaky_relu":
        return np.where(x > 0, x, op["slope"] * x)
    if op["op"] == "avg_pool":
        return windows(x, op["size"], op["size"]).mean(axis=(4, 5))
    if op["op"] == "max_pool":
        return windows(x, op["size"], op["size"]).max(axis=(4, 5))
    weight = tensors[f"{name}.weight"]
    if op["op"] == "linear":
        y = x.reshape(len(x), -1) @ weight.T
    else:
        p = op["padding"]
        x = windows(np.pad(x, ((0, 0), (0, 0), (p, p), (p, p))), op["kernel"], op["stride"])
        sums = "naijuv,ijoauv->noij" if op["op"] == "local" else "naijuv,oauv->noij"
        y = np.einsum(sums, x, weight, optimize=True)
    if not op["bias"]:
        return y
    bias = tensors[f"{name}.bias"]
    return y + (bias if op["op"] == "local" else per_channel(bias, y))


def apply_all(ops: list[Json], prefix: str, tensors: Tensors, x: np.ndarray, shortcut: bool = False) -> np.ndarray:
    seen: Counter[str] = Counter()
    given = x
    for number, op in enumerate(ops, 1):
        seen[op["op"]] += 1
        x = x + given if shortcut and number == len(ops) else x
        x = apply(op, f"{prefix}.{op['op']}{seen[op['op']]}", tensors, x)
    return x


def activation(network: Json, tensors: Tensors, k: int, x: np.ndarray) -> np.ndarray:
    """Activation of unit k (from 1) on its normalised input from below alone."""
    unit = network["units"][k - 1]
    x = apply_all(unit["inputs"][0]["ops"], f"unit{k}.below", tensors, x)
    return apply_all(unit["ops"], f"unit{k}", tensors, x, unit["shortcut"])


def settle(network: Json, tensors: Tensors, x: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """Goodness of every unit of a recurrent network, (N, U), for the image x and one label at the top."""
    steps, label = network["steps"], np.broadcast_to(pattern, (len(x), *pattern.shape))
    ys, counted = activations(network, tensors, x), []
    for n in range(1, steps["count"] + 1):
        new = []
        for k, unit in enumerate(network["units"], 1):
            total: Any = 0
            for inputs in unit["inputs"]:
                place = k + {"below": -1, "self": 0, "above": 1}[inputs["source"]]
                part = [x, *ys, label][place]
                part = divisive(part) if inputs["normalise"] == "divisive" else part
                part = apply_all(inputs["ops"], f"unit{k}.{inputs['source']}", tensors, part)
                total = total + (part if inputs["source"] == "below" else part.reshape(np.shape(total)))
            new.append(apply_all(unit["ops"], f"unit{k}", tensors, total))
        ys = [steps["damping"] * y + (1 - steps["damping"]) * a for y, a in zip(ys, new, strict=True)]
        if steps["score"][0] <= n <= steps["score"][1]:
            counted.append(np.stack([goodness(y) for y in ys], axis=-1))
    return np.mean(counted, axis=0)


def activations(network: Json, tensors: Tensors, x: np.ndarray) -> list[np.ndarray]:
    result = []
    for k in range(1, len(network["units"]) + 1):
        x = activation(network, tensors, k, normalise(network, tensors, k, x))
        result.append(x)
    return result


def goodness(y: np.ndarray) -> np.ndarray:
    return per_sample(np.mean, y**2).reshape(len(y))


def row_goodness(network: Json, tensors: Tensors, k: int, y: np.ndarray) -> np.ndarray:
    """(N, P): what a unit's readout makes of its activation; 0 without one."""
    readout = network["units"][k - 1]["readout"]
    if not readout:
        return np.zeros((len(y), network["label"]["patterns"]))
    for axis in range(2, y.ndim):  # rows, then columns
        side = y.shape[axis]
        cells = min(side, readout["cells"])
        edges = [cell * side // cells for cell in range(cells + 1)]
        means = [y.take(range(first, end), axis).mean(axis) for first, end in pairwise(edges)]
        y = np.stack(means, axis)
    z = divisive(y.reshape(len(y), -1))
    return z @ tensors[f"unit{k}.readout.weight"].T + tensors[f"unit{k}.readout.bias"]


def class_loss(
    loss: Json, found: np.ndarray, labels: np.ndarray, known: np.ndarray, readout: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """`readout`: the unit's rows and biases."""

    def of(goodness: np.ndarray) -> np.ndarray:
        logits = goodness[:, known > 0]
        logs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        s = loss["smoothing"]
        return -(1 - s) * logs[np.arange(len(labels)), labels] - s * logs.mean(1)

    rows, biases = readout
    return of(found) + loss["prototypes"] * of(found - biases - (rows**2).sum(1) / 2)


def scored(network: Json) -> list[int]:
    return [index for index, unit in enumerate(network["units"]) if unit["scored"]]


def pair_loss(loss: Json, positive: np.ndarray, negative: np.ndarray, neurons: int) -> np.ndarray:
    def softplus(z: np.ndarray) -> np.ndarray:
        return np.logaddexp(0, z)

    if loss["kind"] == "symmetric":
        return softplus(-loss["alpha"] * (positive - negative))
    if loss["kind"] == "ratio":
        return softplus(-loss["alpha"] * (np.log(positive) - np.log(negative)))
    s = neurons if loss["reduce"] == "sum" else 1
    return softplus(-s * (positive - loss["theta"])) + softplus(s * (negative - loss["theta"]))


# ---------------------------------------- against the golden values ----------------------------------------


@pytest.fixture(scope="module")
def manifest(exported: Path) -> Json:
    return read_manifest(exported)


@pytest.fixture(scope="module")
def weights(exported: Path) -> Tensors:
    tensors = read_safetensors(exported / "weights.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype("<f4")}
    return {name: tensor.astype(np.float64) for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def golden(exported: Path) -> Tensors:
    return read_safetensors(exported / "golden.safetensors")


@pytest.fixture(scope="module")
def of_classes(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with class goodness, every operation and normalisation that the other has not, a little trained."""
    units: list[Json] = [
        {
            "inputs": [{"normalise": "layer"}],
            "ops": [{"op": "conv", "out": 4, "kernel": 3, "stride": 2}, {"op": "avg_pool"}, {"op": "leaky_relu"}],
            "readout": {"cells": 4},
        },
        {
            "inputs": [{"normalise": "group", "groups": 2}],
            "ops": [{"op": "conv", "out": 4, "kernel": 3, "padding": 1}, {"op": "relu"}],
            "readout": {"cells": 2},
            "shortcut": True,
        },
        {"inputs": [{"normalise": "instance"}], "ops": [{"op": "linear", "out": 7}, {"op": "relu"}], "readout": {}},
        {"ops": [{"op": "linear", "out": 5}, {"op": "relu"}], "trained": False, "scored": False},
    ]
    recipe = {
        "about": "",
        "network": {"units": units, "placement": "readout"},
        "patterns": {"kind": "readout"},
        "loss": {"kind": "class", "smoothing": 0.1, "prototypes": 0.5},
        "schedule": {"epochs": 1},
    }
    few = Examples(dataset.train.pixels[:640], dataset.train.labels[:640])
    some = Examples(dataset.validation.pixels[:100], dataset.validation.labels[:100])
    part = structs.replace(dataset, train=few, validation=some)
    run = start(msgspec.convert(recipe, Recipe), part, 0, torch.device("cpu"), torch.float32)
    path = tmp_path_factory.mktemp("classes") / "model.ff"
    for _ in train(run, path, resume=False, stop=lambda: False):
        pass
    bundle = pack_run(path, run, "other", "cpu", "fp32", {})
    calibration = Calibration(
        100, (0.01, 0.1), {"unit1": OfScores(1.0, 0.1, 0.1, (0.5, 0.6))}, Distances(9, (8, 7))
    )
    exits = EarlyExit((1.0, 0.5), 0.5, 1.0)
    write_bundle(path, structs.replace(bundle.manifest, exit=exits, calibration=calibration), {})
    return path


def test_class_goodness_and_its_gradient(of_classes: Path) -> None:
    manifest, golden = read_manifest(of_classes), read_safetensors(of_classes / "golden.safetensors")
    network, loss = manifest["network"], manifest["learning"]["loss"]
    stored = read_safetensors(of_classes / "weights.safetensors")
    weights = {name: tensor.astype(np.float64) for name, tensor in stored.items()}
    assert weights["labels.known"].tolist() == [1] * 10 + [0] * (network["label"]["patterns"] - 10)
    ys = activations(network, weights, embed(network, weights, golden["images"], np.zeros(0)))
    table = np.stack([row_goodness(network, weights, k, y) for k, y in enumerate(ys, 1)], axis=2)
    scale = np.abs(golden["goodness"]).max()
    np.testing.assert_allclose(table, golden["goodness"], atol=1e-5 * scale)
    of_scored = scored(network)
    total = table[:, :, of_scored] @ weights["total.weights"][of_scored]
    np.testing.assert_allclose(total, golden["total"], atol=1e-5 * scale)
    (k,) = {int(name[13]) for name in golden if name.startswith("gradient.unit")}
    below = embed(network, weights, golden["images"], np.zeros(0)) if k == 1 else ys[k - 2]
    x = normalise(network, weights, k, below)

    def mean_loss(moved: Tensors) -> float:
        found = row_goodness(network, moved, k, activation(network, moved, k, x))
        readout = moved[f"unit{k}.readout.weight"], moved[f"unit{k}.readout.bias"]
        return float(class_loss(loss, found, golden["labels"], weights["labels.known"], readout).mean())

    check_slope(mean_loss, weights, golden)


def test_goodness_of_every_unit_and_label(manifest: Json, weights: Tensors, golden: Tensors) -> None:
    check_goodness(manifest, weights, golden)


@pytest.mark.parametrize("placement", ["add", "morphology"])
def test_goodness_with_other_placements(
    placement: str, dataset: Dataset, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    plain = msgspec.to_builtins(with_epochs(tiny_recipe, 0))
    plain["network"] |= {"placement": placement, "normalise": "range"}
    plain["patterns"] = {"kind": "fourier" if placement == "add" else "morphology"}
    run = start(msgspec.convert(plain, Recipe), dataset, 0, torch.device("cpu"), torch.float32)
    pack_run(tmp_path / "model.ff", run, "other", "cpu", "fp32", {})
    weights = read_safetensors(tmp_path / "model.ff" / "weights.safetensors")
    assert "labels.keep" in weights
    check_goodness(
        read_manifest(tmp_path / "model.ff"),
        {name: tensor.astype(np.float64) for name, tensor in weights.items()},
        read_safetensors(tmp_path / "model.ff" / "golden.safetensors"),
    )


def test_goodness_of_locally_connected_units(dataset: Dataset, tiny_recipe: Recipe, tmp_path: Path) -> None:
    plain = msgspec.to_builtins(with_epochs(tiny_recipe, 0))
    plain["network"]["units"][1]["ops"] = [
        {"op": "local", "out": 3, "kernel": 3, "stride": 2, "padding": 1},
        {"op": "relu"},
        {"op": "local", "out": 2, "kernel": 2, "bias": False},
        {"op": "relu"},
    ]
    run = start(msgspec.convert(plain, Recipe), dataset, 0, torch.device("cpu"), torch.float32)
    run.tensors["unit2.local1.bias"] += torch.rand(3, 7, 7)
    pack_run(tmp_path / "model.ff", run, "other", "cpu", "fp32", {})
    weights = read_safetensors(tmp_path / "model.ff" / "weights.safetensors")
    assert {name: weights[name].shape for name in weights if "local" in name} == {
        "unit2.local1.weight": (7, 7, 3, 16, 3, 3),
        "unit2.local1.bias": (3, 7, 7),
        "unit2.local2.weight": (6, 6, 2, 3, 2, 2),
    }
    check_goodness(
        read_manifest(tmp_path / "model.ff"),
        {name: tensor.astype(np.float64) for name, tensor in weights.items()},
        read_safetensors(tmp_path / "model.ff" / "golden.safetensors"),
    )


@pytest.mark.parametrize("goodness", ["high", "low"])
def test_goodness_of_recurrent_networks(goodness: str, dataset: Dataset, tmp_path: Path) -> None:
    """Inputs from all sides, some not normalised, local and linear ones, in the shape of an image."""
    local = {"op": "local", "out": 2, "kernel": 5, "stride": 4, "padding": 1}
    units: list[Json] = [
        {
            "inputs": [
                {"source": "below", "normalise": "none", "ops": [local]},
                {"source": "self", "ops": [{"op": "linear", "out": 98}]},
                {"source": "above", "ops": [{"op": "linear", "out": 98, "bias": False}]},
            ],
            "ops": [{"op": "relu"}, {"op": "conv", "out": 3, "kernel": 2}, {"op": "relu"}],
        },
        {
            "inputs": [
                {"source": "below", "ops": [{"op": "linear", "out": 9}]},
                {"source": "above", "normalise": "none", "ops": [{"op": "linear", "out": 9}]},
            ],
            "ops": [{"op": "relu"}],
        },
    ]
    recipe = {
        "about": "",
        "network": {
            "units": units,
            "placement": "top",
            "goodness": goodness,
            "steps": {"count": 4, "damping": 0.3, "score": [2, 3]},
        },
        "patterns": {"kind": "one_hot"},
        "loss": {"kind": "symmetric"},
        "schedule": {"epochs": 0},
    }
    run = start(msgspec.convert(recipe, Recipe), dataset, 0, torch.device("cpu"), torch.float32)
    for name, tensor in run.tensors.items():
        if name.endswith(".bias"):
            tensor += torch.rand(tensor.shape)
    pack_run(tmp_path / "model.ff", run, "other", "cpu", "fp32", {})
    manifest, golden = (
        read_manifest(tmp_path / "model.ff"),
        read_safetensors(tmp_path / "model.ff/golden.safetensors"),
    )
    weights = read_safetensors(tmp_path / "model.ff" / "weights.safetensors")
    assert weights["unit2.above.linear1.weight"].shape == (9, 12)
    exact = {name: tensor.astype(np.float64) for name, tensor in weights.items()}
    check_goodness(manifest, exact, golden)
    test_classifier(manifest, exact, golden)


def check_goodness(manifest: Json, weights: Tensors, golden: Tensors) -> None:
    network = manifest["network"]
    assert len(weights["labels.patterns"]) == network["label"]["patterns"] >= len(manifest["classes"])
    table = np.empty(golden["goodness"].shape)  # (G, P, U)
    for label, pattern in enumerate(weights["labels.patterns"]):
        x = embed(network, weights, golden["images"], pattern)
        if network["steps"]:
            table[:, label] = settle(network, weights, x, pattern)
        else:
            table[:, label] = np.stack([goodness(y) for y in activations(network, weights, x)], axis=-1)
    np.testing.assert_allclose(table, golden["goodness"], rtol=1e-4)
    total = table[:, :, scored(network)]
    if network["score"] == "log_sum":
        total = np.log(np.maximum(total, 1e-30))
    total = total.sum(-1) if network["goodness"] == "high" else -total.sum(-1)
    np.testing.assert_allclose(total, golden["total"], rtol=1e-4)


def test_classifier(manifest: Json, weights: Tensors, golden: Tensors) -> None:
    network = manifest["network"]
    x = embed(network, weights, golden["images"], weights["labels.neutral"])
    ys = activations(network, weights, x)
    features = np.concatenate([divisive(ys[i]).reshape(len(x), -1) for i in scored(network)], axis=1)
    logits = features @ weights["head.weight"].T + weights["head.bias"]
    np.testing.assert_allclose(logits, golden["logits"], rtol=1e-4)


def test_gradient_is_the_slope_of_the_documented_loss(manifest: Json, weights: Tensors, golden: Tensors) -> None:
    """Moved along the golden gradient G, the loss of the smallest trained unit must change by |G|² a step."""
    check_gradient(manifest, weights, golden)


def test_gradient_where_negatives_are_hybrid_images(dataset: Dataset, tmp_path: Path) -> None:
    recipe = load_recipe("hinton-unsupervised", [("network.units.*.ops.0.out", 12)])
    run = start(with_epochs(recipe, 0), dataset, 0, torch.device("cpu"), torch.float32)
    pack_run(tmp_path / "model.ff", run, "other", "cpu", "fp32", {})
    manifest = read_manifest(tmp_path / "model.ff")
    weights, golden = (
        read_safetensors(tmp_path / f"model.ff/{name}.safetensors") for name in ("weights", "golden")
    )
    assert golden["hybrids"].dtype == np.uint8
    assert (golden["hybrids"] != golden["images"]).any((1, 2, 3)).all()
    check_gradient(manifest, {name: tensor.astype(np.float64) for name, tensor in weights.items()}, golden)


def check_gradient(manifest: Json, weights: Tensors, golden: Tensors) -> None:
    network, loss = manifest["network"], manifest["learning"]["loss"]
    assert (golden["negatives"] == (golden["labels"] + 1) % len(manifest["classes"])).all()
    sizes = {
        k: sum(t.size for n, t in weights.items() if re.fullmatch(rf"unit{k}\..*\.(weight|bias)", n))
        for k, unit in enumerate(network["units"], 1)
        if unit["trained"]
    }
    k = min(sizes, key=lambda unit: sizes[unit])
    gradient = {n.removeprefix("gradient."): t for n, t in golden.items() if n.startswith("gradient.")}
    assert set(gradient) == {n for n in weights if re.fullmatch(rf"unit{k}\..*\.(weight|bias)", n)}
    halves = []
    patterns, neutral = weights["labels.patterns"], [weights["labels.neutral"]] * len(golden["images"])
    shown = [(golden["images"], patterns[golden["labels"]]), (golden["images"], patterns[golden["negatives"]])]
    if manifest["learning"]["negatives"]["kind"] == "hybrids":
        shown = [(golden["images"], neutral), (golden["hybrids"], neutral)]
    for images, labels in shown:
        pairs = zip(images, labels, strict=True)
        x = np.concatenate([embed(network, weights, image[None], pattern) for image, pattern in pairs])
        for below in range(1, k):
            x = activation(network, weights, below, normalise(network, weights, below, x))
        halves.append(normalise(network, weights, k, x))

    def mean_loss(moved: Tensors) -> float:
        ys = [activation(network, moved, k, x) for x in halves]
        return float(pair_loss(loss, goodness(ys[0]), goodness(ys[1]), ys[0][0].size).mean())

    check_slope(mean_loss, weights, golden)


def check_slope(mean_loss: Callable[[Tensors], float], weights: Tensors, golden: Tensors) -> None:
    gradient = {n.removeprefix("gradient."): t for n, t in golden.items() if n.startswith("gradient.")}
    norm = sum(float((g.astype(np.float64) ** 2).sum()) for g in gradient.values())
    step = 1e-6 / np.sqrt(norm)
    ahead, behind = (
        mean_loss(weights | {name: weights[name] + way * g for name, g in gradient.items()})
        for way in (step, -step)
    )
    assert (ahead - behind) / (2 * step) == pytest.approx(norm, rel=1e-4)


@pytest.mark.slow
def test_shortlist_on_the_exemplars_it_was_measured_on(exported: Path, manifest: Json, weights: Tensors) -> None:
    network, classes = manifest["network"], len(manifest["classes"])
    exemplars = read_safetensors(exported / "exemplars.safetensors")
    images = exemplars["images"][exemplars["part"] == 0]
    ys = activations(network, weights, embed(network, weights, images, weights["labels.neutral"]))
    features = np.concatenate([divisive(ys[i]).reshape(len(images), -1) for i in scored(network)], axis=1)
    logits = (features @ weights["head.weight"].T + weights["head.bias"])[:, :classes]
    total = np.empty((len(images), classes))
    for label in range(classes):
        ys = activations(network, weights, embed(network, weights, images, weights["labels.patterns"][label]))
        total[:, label] = np.log([goodness(ys[i]) for i in scored(network)]).sum(0)
    in_play = logits >= logits.max(1, keepdims=True) - manifest["shortlist"]["threshold"] - 1e-5
    passes = np.where(in_play.sum(1) == 1, 1, 1 + in_play.sum(1))
    agree = np.where(in_play, total, -np.inf).argmax(1) == total.argmax(1)
    assert passes.mean() == pytest.approx(manifest["shortlist"]["passes"])
    assert agree.mean() == pytest.approx(manifest["shortlist"]["agree"])


def test_exemplars(exported: Path, manifest: Json) -> None:
    tensors = read_safetensors(exported / "exemplars.safetensors")
    assert {name: str(t.dtype) for name, t in tensors.items()} == {
        "images": "uint8",
        "labels": "int64",
        "part": "uint8",
    }
    assert tensors["images"].shape == (len(tensors["labels"]), *manifest["network"]["image"]["shape"])
    assert set(tensors["labels"]) == set(range(len(manifest["classes"])))
    assert np.bincount(tensors["part"]).tolist() == [200, 200, 100]


# ---------------------------------------- every name is in the document ----------------------------------------


def documented_fields() -> dict[str, set[str]]:
    """Path of a JSON object (a heading in backticks) -> the fields in the tables below it."""
    text = "\n".join(document.read_text(encoding="utf-8") for document in (DOCUMENT, RECIPE))
    sections = re.split(r"^#+ (.*)$", text, flags=re.M)
    return {
        heading.strip("`"): set(re.findall(r"^\| `([^`]+)` \|", text, re.M))
        for heading, text in zip(sections[1::2], sections[2::2], strict=True)
    }


def objects(value: Any, path: str) -> Iterator[tuple[str, Json]]:
    """Every JSON object within `value` that has fields, with its path, such as `network.units[]`."""
    if isinstance(value, list):
        for item in value:
            yield from objects(item, f"{path}[]")
    elif isinstance(value, dict):
        if path not in MAPS:
            yield path, value
        for key, item in value.items():
            yield from objects(item, f"{path}.{'*' if path in MAPS else key}".removeprefix("manifest.json."))


def test_every_field_is_in_the_document(exported: Path, manifest: Json, of_classes: Path) -> None:
    documented = documented_fields()
    seen: dict[str, set[str]] = {}
    shared = manifest["training"]["recipe"]["network"]
    assert shared.pop("units") == manifest["network"]["units"]
    shared["units"] = "as network.units"
    report = json.loads((exported / "export.json").read_bytes())
    with_classes = read_manifest(of_classes)
    with_classes["training"]["recipe"] = {}
    manifests = [*objects(manifest, "manifest.json"), *objects(with_classes, "manifest.json")]
    for path, value in [*manifests, *objects(report, "export.json")]:
        if path.startswith("accuracy."):  # modes by split: a map of maps
            continue
        seen.setdefault(path, set()).update(value)
    for path, fields in seen.items():
        variants = "op" in fields or "kind" in fields  # the table has the fields of every kind
        assert fields == documented[path] or (variants and fields < documented[path]), path


def general(names: set[str]) -> set[str]:
    """Names as the document writes them: `unit<k>.conv<j>.weight`, `gradient.<name>`."""
    names = {re.sub(r"\b(unit|gradient)\d+", r"\1<k>", re.sub(r"\b(conv|linear)\d+", r"\1<j>", n)) for n in names}
    return {re.sub(r"^gradient[.].*", "gradient.<name>", name) for name in names}


def test_every_file_and_tensor_is_in_the_document(exported: Path, manifest: Json, of_classes: Path) -> None:
    documented = documented_fields()
    files = {str(file.relative_to(exported)) for file in exported.rglob("*") if file.is_file()}
    assert files == {*manifest["files"], "manifest.json"}
    assert general(files) == documented["Layout"] - {"statistics.safetensors", "typicality.safetensors"}
    for name, heading in (("golden", "The golden file"), ("exemplars", "The exemplars")):
        stored = general(set(read_safetensors(exported / f"{name}.safetensors")))
        assert stored == documented[heading] - {"hybrids"}  # which this network does not have
    # This network adds no pattern to the image, so that it has no `labels.keep`, and it has no `local` layer.
    both = (read_safetensors(path / "weights.safetensors") for path in (exported, of_classes))
    weights = general({name for tensors in both for name in tensors})
    absent = {"labels.keep", "unit<k>.local<j>.weight", "unit<k>.local<j>.bias"}
    assert weights == documented["The weights"] - absent


def test_every_key_of_a_map_is_in_the_document(manifest: Json) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for name in (*manifest["made_with"], *manifest["accuracy"], *manifest["accuracy"]["validation"]):
        assert f"`{name}`" in text
