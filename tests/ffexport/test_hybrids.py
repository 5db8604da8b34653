"""Bundles whose negatives are hybrid images: proven with those, also after learning, or not made to learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from narrow import narrow
from safetensors.numpy import save

from ffexport.export import export_onnx
from ffexport.from_state import export_state
from ffruntime import Model
from ffruntime.core.errors import BundleError
from ffruntime.core.manifest import GOLDEN
from ffruntime.core.state import write_state
from ffruntime.core.transition import read_manifest, read_tensors, read_weights, write
from ffruntime.golden import check, require
from ffruntime.learning.learner import Learner
from fftrain.dataset import Dataset
from fftrain.pack import pack_run
from fftrain.recipe import with_epochs
from fftrain.run import start


@pytest.fixture
def bundle(dataset: Dataset, tmp_path: Path) -> Path:
    """An untrained network, not exported yet."""
    run = start(with_epochs(narrow("hinton-unsupervised"), 0), dataset, 0, torch.device("cpu"), torch.float32)
    pack_run(tmp_path / "model.ff", run, "hinton-unsupervised", "cpu", "fp32", {})
    return tmp_path / "model.ff"


def gradients(path: Path) -> set[str]:
    return {row.output for row in check(Model(path, state=False)) if row.output.startswith("gradient.unit")}


def test_a_bundle_from_before_hybrids_answers_and_does_not_learn(bundle: Path, tmp_path: Path) -> None:
    manifest = read_manifest(bundle)
    golden = read_tensors(bundle, manifest, GOLDEN)
    older = {name: tensor for name, tensor in golden.items() if not name.startswith(("hybrids", "gradient."))}
    assert len(older) < len(golden) - 1
    write(bundle, manifest, {GOLDEN: save(older)})
    export_onnx(bundle)
    model = Model(bundle, state=False)
    require(check(model), "onnxruntime-cpu")
    with pytest.raises(BundleError, match="no gradient graphs"):
        Learner(model, tmp_path / "model.state")


def test_gradients_without_the_hybrids_that_prove_them_are_refused(bundle: Path) -> None:
    export_onnx(bundle)
    manifest = read_manifest(bundle)
    golden = read_tensors(bundle, manifest, GOLDEN)
    write(bundle, manifest, {GOLDEN: save({n: tensor for n, tensor in golden.items() if n != "hybrids"})})
    with pytest.raises(BundleError, match=r"golden\.safetensors: 'hybrids' is missing"):
        check(Model(bundle, state=False))


def test_a_state_becomes_a_bundle_with_the_same_hybrids(bundle: Path, tmp_path: Path) -> None:
    export_onnx(bundle)
    manifest = read_manifest(bundle)
    weight = read_weights(bundle, manifest)["unit1.linear1.weight"] + np.float32(0.01)
    tensors = {"unit1.linear1.weight": weight}
    write_state(tmp_path / "learned.state", manifest, tensors, manifest.classes, 1, 2)
    export_state(bundle, tmp_path / "learned.state", tmp_path / "learned.ff")
    old, new = (read_tensors(path, read_manifest(path), GOLDEN) for path in (bundle, tmp_path / "learned.ff"))
    np.testing.assert_array_equal(new["hybrids"], old["hybrids"])
    assert gradients(tmp_path / "learned.ff") == gradients(bundle) != set()
    assert all(not np.array_equal(new[name], old[name]) for name in gradients(bundle))
