"""Bundles whose negatives are hybrid images: proven with those, also after learning."""

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
from ffruntime.core import bundle as bundles
from ffruntime.core.bundle import Bundle
from ffruntime.core.errors import BundleError
from ffruntime.core.manifest import GOLDEN
from ffruntime.core.state import Weights, write_state
from ffruntime.golden import check
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


@pytest.mark.slow
def test_gradients_without_the_hybrids_that_prove_them_are_refused(bundle: Path) -> None:
    export_onnx(bundle)
    manifest = Bundle(bundle).manifest
    golden = Bundle(bundle).tensors(GOLDEN)
    bundles.write_bundle(
        bundle, manifest, {GOLDEN: save({n: tensor for n, tensor in golden.items() if n != "hybrids"})}
    )
    with pytest.raises(BundleError, match=r"golden\.safetensors: 'hybrids' is missing"):
        check(Model(bundle, state=False))


@pytest.mark.slow
def test_a_state_becomes_a_bundle_with_the_same_hybrids(bundle: Path, tmp_path: Path) -> None:
    export_onnx(bundle)
    manifest = Bundle(bundle).manifest
    weight = Bundle(bundle).weights()["unit1.linear1.weight"] + np.float32(0.01)
    tensors = {"unit1.linear1.weight": weight}
    write_state(tmp_path / "learned.state", manifest, Weights(tensors, manifest.classes), 1, 2)
    export_state(Bundle(bundle), tmp_path / "learned.state", tmp_path / "learned.ff")
    old, new = (Bundle(path).tensors(GOLDEN) for path in (bundle, tmp_path / "learned.ff"))
    np.testing.assert_array_equal(new["hybrids"], old["hybrids"])
    assert gradients(tmp_path / "learned.ff") == gradients(bundle) != set()
    assert all(not np.array_equal(new[name], old[name]) for name in gradients(bundle))
