"""TensorRT: everything up to the builder, here; the engines themselves on a machine that has the GPU."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from msgspec import structs

from ffexport.engines import (
    AMPERE_PLUS,
    PORTABLE,
    EngineLimits,
    EngineOptions,
    build_engines,
    dynamic_sizes,
    engine_limits,
    graph_files,
    missing,
    offered_capabilities,
    profile_shapes,
    rtx_target,
    tensorrt_target,
)
from ffruntime import cuda
from ffruntime.core.architecture import Image, Label, Linear, Network, Readout, Relu, Unit
from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.devices import load_profile
from ffruntime.core.errors import BackendError
from ffruntime.core.graphs import graphs
from ffruntime.core.manifest import FileEntry, Manifest
from ffruntime.engine import Shapes, Sidecar, Target, fits, folder
from ffruntime.golden import check, require
from ffruntime.model import Model
from ffruntime.session import Session

NANO = load_profile("jetson-orin-nano")
SIX = EngineLimits(batch=6, labels=5)
can_build = not missing("tensorrt")


@pytest.mark.parametrize(
    ("graph", "shape", "names", "expected"),
    [
        (
            "goodness",
            (-1, 1, 28, 28),
            ("N", None, None, None),
            Shapes((1, 1, 28, 28), (1, 1, 28, 28), (6, 1, 28, 28)),
        ),
        ("goodness", (-1,), ("L",), Shapes((1,), (5,), (5,))),
        ("unit2", (-1, 7), ("N", None), Shapes((1, 7), (5, 7), (30, 7))),
        ("gradient1", (-1, 7), ("N", None), Shapes((1, 7), (6, 7), (6, 7))),
        ("gradient1", (-1, 7), ("M·N", None), Shapes((1, 7), (6, 7), (30, 7))),
        ("gradient1", (8, 3), (None, None), Shapes((8, 3), (8, 3), (8, 3))),
    ],
)
def test_one_profile_from_the_limits(
    graph: str, shape: tuple[int, ...], names: tuple[str | None, ...], expected: Shapes
) -> None:
    network = Network(Image((1, 28, 28)), Label("add", 12), (Unit((Linear(7), Relu())),) * 2)
    assert profile_shapes(shape, names, dynamic_sizes(network, graphs(network)[graph], SIX)) == expected


@pytest.mark.parametrize(
    ("graph", "shape", "names", "expected"),
    [
        ("goodness", (-1,), ("L",), Shapes((1,), (12,), (12,))),  # one pass answers for every row
        ("unit2", (-1, 7), ("N", None), Shapes((1, 7), (1, 7), (6, 7))),
        ("gradient1", (-1, 7), ("N", None), Shapes((1, 7), (6, 7), (6, 7))),
    ],
)
def test_with_class_goodness_a_row_is_an_image(
    graph: str, shape: tuple[int, ...], names: tuple[str | None, ...], expected: Shapes
) -> None:
    units = (Unit((Linear(7), Relu()), readout=Readout()),) * 2
    network = Network(Image((1, 28, 28)), Label("readout", 12), units)
    assert profile_shapes(shape, names, dynamic_sizes(network, graphs(network)[graph], SIX)) == expected


def test_limits_are_the_devices() -> None:
    assert NANO.gpu
    assert engine_limits(NANO) == EngineLimits(
        NANO.inference.max_batch, NANO.inference.max_labels, NANO.gpu.workspace_mib
    )
    assert engine_limits(NANO, batch=2, labels=3) == EngineLimits(2, 3, NANO.gpu.workspace_mib)
    assert engine_limits(None) == EngineLimits()


def test_targets_say_which_gpus_run_them() -> None:
    assert (Target(("8.9",)).name, PORTABLE.name) == ("sm89", "sm80+")
    assert Target(("8.9",)).runs_on("8.9")
    assert not Target(("8.9",)).runs_on("12.0")
    assert AMPERE_PLUS.runs_on("8.7")
    assert not AMPERE_PLUS.runs_on("7.5")
    assert PORTABLE.runs_on("8.9")
    assert PORTABLE.runs_on("12.1")
    assert not PORTABLE.runs_on("8.7")  # TensorRT-RTX has no code for a Jetson


def test_the_devices_own_gpu_is_the_target() -> None:
    offered = offered_capabilities(["NONE", "CURRENT", "SM75", "SM120", "SM89"])
    assert offered == ["7.5", "8.9", "12.0"]
    assert rtx_target(None, None, offered) == rtx_target(None, "9.0", offered) == PORTABLE
    assert rtx_target(None, "12.0", offered) == Target(("12.0",))
    assert rtx_target(load_profile("rtx-workstation").gpu, "12.0", offered) == Target(("8.9",))
    with pytest.raises(BackendError, match=r"7\.5, 8\.9, 12\.0, not Ampere.* \(8\.7\)"):
        rtx_target(NANO.gpu, None, offered)
    assert tensorrt_target("8.7", NANO, EngineOptions()) == Target(("8.7",))
    with pytest.raises(BackendError, match=r"8\.7.* is built on it; this GPU has 9\.0"):
        tensorrt_target("9.0", NANO, EngineOptions())
    assert tensorrt_target("9.0", NANO, EngineOptions(hardware_compatible=True)) == AMPERE_PLUS


def test_an_engine_is_tied_to_all_that_its_sidecar_says(exported: Path) -> None:
    manifest = Bundle(exported).manifest
    weights, graph = (manifest.files[name].sha256 for name in ("weights.safetensors", "goodness.onnx"))
    sidecar = Sidecar(
        library="tensorrt",
        version="10.3.0",
        target=Target(("8.7",)),
        precision="fp32",
        graph="goodness.onnx",
        graph_sha256=graph,
        weights_sha256=weights,
        inputs={},
        refit=True,
        version_compatible=False,
        workspace_mib=1,
    )
    here = ("tensorrt", "10.3.0", "8.7", "fp32")
    assert folder("tensorrt", "10.3.0", sidecar.target, "fp32") == "engines/tensorrt-10.3.0-sm87-fp32"
    assert fits(sidecar, manifest, *here)
    for other in (
        ("tensorrt-rtx", "10.3.0", "8.7", "fp32"),
        ("tensorrt", "10.13.3", "8.7", "fp32"),
        ("tensorrt", "10.3.0", "8.9", "fp32"),
        ("tensorrt", "10.3.0", "8.7", "fp16"),
    ):
        assert not fits(sidecar, manifest, *other)
    compatible = structs.replace(sidecar, version_compatible=True)
    assert fits(compatible, manifest, "tensorrt", "10.13.3", "8.7", "fp32")
    assert not fits(compatible, manifest, "tensorrt", "10.2.0", "8.7", "fp32")
    for name in ("goodness.onnx", "weights.safetensors"):
        changed = structs.replace(manifest, files={**manifest.files, name: FileEntry(1, "0" * 64)})
        assert not fits(sidecar, changed, *here)


@pytest.mark.skipif(can_build, reason="TensorRT and a GPU are here")
def test_what_is_missing_and_which_command_where(bundle: Path) -> None:
    """One line that names every obstacle; the bundle, graphs included, is as it was."""
    before = Bundle(bundle).manifest
    with pytest.raises(BackendError) as raised:
        build_engines(bundle, "tensorrt", NANO)
    said = str(raised.value)
    assert f"copy {bundle} to NVIDIA Jetson Orin Nano (8 GB)" in said
    assert "ffexport --model model.ff --format tensorrt" in said
    if cuda.missing():
        assert "no CUDA driver" in said
    if not (find_spec("tensorrt") or find_spec("tensorrt_bindings")):
        assert "tensorrt is not installed: JetPack" in said
    assert "\n" not in said
    assert Bundle(bundle).manifest == before


@pytest.mark.slow
@pytest.mark.skipif(can_build, reason="TensorRT and a GPU are here")
def test_the_graphs_are_complete_all_the_same(bundle: Path) -> None:
    """`ffexport --format tensorrt`, straight after training: the graphs, and one line that says what to do."""
    manifest = Bundle(bundle).manifest
    trained = {name: entry for name, entry in manifest.files.items() if name.endswith(".safetensors")}
    assert not graph_files_of(write_bundle(bundle, structs.replace(manifest, files=trained), {}).manifest)
    command = [sys.executable, "-m", "ffexport", "--model", str(bundle), "--format", "tensorrt"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 6
    assert done.stderr.count("\n") == 1
    assert f"copy {bundle} to the machine with the GPU" in done.stderr
    assert "goodness.onnx" in done.stdout
    assert graph_files_of(Bundle(bundle).manifest) == graph_files_of(manifest)


def graph_files_of(manifest: Manifest) -> set[str]:
    """The names of its graphs."""
    return {name for name in manifest.files if name.endswith(".onnx")}


def test_a_device_without_a_gpu_is_refused(bundle: Path) -> None:
    with pytest.raises(BackendError, match=r"Raspberry Pi 5 .* has no NVIDIA GPU"):
        build_engines(bundle, "tensorrt", load_profile("raspberry-pi-5"))


@pytest.mark.skipif(cuda.missing() is None, reason="this machine has a CUDA driver")
def test_an_engine_backend_without_a_driver_is_an_error(exported: Path) -> None:
    for backend in ("tensorrt", "tensorrt-rtx"):
        with pytest.raises(BackendError, match=f"{backend}: no CUDA driver"):
            Model(exported, session=Session(backend)).graph("goodness")


@pytest.mark.gpu
@pytest.mark.skipif(not can_build, reason=f"TensorRT engines: {'; '.join(missing('tensorrt'))}")
@pytest.mark.parametrize(
    "options", [EngineOptions(), EngineOptions(version_compatible=True), EngineOptions(hardware_compatible=True)]
)
def test_engines_of_a_whole_bundle_reproduce_the_golden_vectors(bundle: Path, options: EngineOptions) -> None:
    """Built and run on this GPU, then once more through the backend that users name."""
    rows = build_engines(bundle, "tensorrt", options=options)
    assert len(rows) == len(graph_files(Bundle(bundle).manifest, "fp32"))
    assert all(row.verdict == "ok" for row in rows if "gradient" not in row.artefact)
    require(check(Model(bundle, session=Session("tensorrt"))), "tensorrt")
