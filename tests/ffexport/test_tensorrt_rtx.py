"""TensorRT-RTX: every graph of a real bundle is built for real, without a GPU, for every GPU that it targets."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import structs

from ffexport.artefacts import REPORT, read_report
from ffexport.engines import EngineLimits, EngineOptions, build_engines, graph_files, offered_capabilities
from ffexport.export import export_onnx
from ffruntime import cuda
from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.devices import Profile, load_profile
from ffruntime.core.errors import BackendError, UsageError
from ffruntime.core.precision import Precision
from ffruntime.engine import Sidecar, import_library, read_sidecar
from ffruntime.golden import check, require
from ffruntime.model import Model
from ffruntime.session import Session

pytestmark = pytest.mark.slow

try:
    rtx = import_library("tensorrt-rtx")
except BackendError as error:
    pytest.skip(str(error), allow_module_level=True)

OFFERED = offered_capabilities(list(rtx.ComputeCapability.__members__))
FEW = EngineLimits(batch=4, labels=12, workspace_mib=64)


def workstation(compute_capability: str) -> Profile:
    """A workstation with another GPU."""
    profile = load_profile("rtx-workstation")
    assert profile.gpu
    return structs.replace(profile, gpu=structs.replace(profile.gpu, compute_capability=compute_capability))


def sidecars(path: Path) -> dict[str, Sidecar]:
    """By the name of the graph."""
    bundle = Bundle(path)
    names = [name for name in bundle.manifest.files if name.startswith("engines/") and name.endswith(".json")]
    return {Path(name).stem: read_sidecar(bundle, name) for name in names}


def test_it_targets_what_the_documentation_says() -> None:
    assert {"7.5", "8.0", "8.6", "8.9", "12.0"} <= set(OFFERED)
    assert "8.7" not in OFFERED


@pytest.mark.parametrize("compute_capability", [None, *OFFERED])
def test_every_graph_of_a_bundle_is_built(bundle: Path, compute_capability: str | None) -> None:
    """For all GPUs in one, and for each by itself. A refusal is its one line, and changes nothing."""
    before = Bundle(bundle).manifest
    device = workstation(compute_capability) if compute_capability else None
    if compute_capability == "7.5":  # a limit of TensorRT-RTX (its support matrix): this network has linear layers
        with pytest.raises(BackendError, match=r"cannot build it for sm75: .*FP32 GEMM is not supported"):
            build_engines(bundle, "tensorrt-rtx", device, limit=FEW)
        assert Bundle(bundle).manifest == before
        return
    rows = build_engines(bundle, "tensorrt-rtx", device, limit=FEW)
    graphs = graph_files(before, "fp32")
    assert [Path(row.artefact).stem for row in rows] == [Path(name).stem for name in graphs]
    manifest, found = Bundle(bundle).manifest, sidecars(bundle)
    for row in rows:
        assert Bundle(bundle).verified(row.artefact).stat().st_size == row.size > 1000
        sidecar = found[Path(row.artefact).stem]
        assert sidecar.graph_sha256 == before.files[sidecar.graph].sha256
        assert sidecar.weights_sha256 == before.files["weights.safetensors"].sha256
        assert sidecar.target.runs_on(compute_capability or "8.9")
        assert sidecar.refit == (cuda.missing() is None)
    assert found["goodness"].inputs["images"].max == (4, 1, 28, 28)
    assert found["goodness"].inputs["labels"].max == (12,)
    others = before.files.keys() - {REPORT}  # which has rows for the engines now
    assert all(manifest.files[name] == before.files[name] for name in others)


def test_the_command_builds_for_a_device(bundle: Path) -> None:
    """As a user types it: what the device can call at most, in its precision and in fp32, as JSON."""
    command = [sys.executable, "-m", "ffexport", "--model", str(bundle), "--format", "tensorrt-rtx", "--json"]
    options = ["--device", "rtx-workstation", "--precision", "fp32"]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["artefacts"]
    assert {Path(row["artefact"]).stem for row in rows} >= {"goodness", "classifier", "unit1", "gradient1"}
    assert all(f"{rtx.__version__}-sm89-fp32/" in row["artefact"] for row in rows)
    assert (
        sidecars(bundle)["goodness"].inputs["images"].max[0] <= load_profile("rtx-workstation").inference.max_batch
    )


MODULES = """
import sys
from ffexport.cli import cli
cli.main(sys.argv[1:], standalone_mode=False)
print(*sorted(name for name in sys.modules if "." not in name), file=sys.stderr)
"""


def test_building_takes_the_engine_library_alone(bundle: Path) -> None:
    """As on a Jetson: neither torch nor onnx, spox or an ONNX Runtime."""
    command = [sys.executable, "-c", MODULES, "--model", str(bundle), "--format", "tensorrt-rtx"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    modules = set(done.stderr.split())
    assert {"ffexport", "ffruntime", "tensorrt_rtx_bindings"} <= modules
    assert not modules & {"torch", "fftrain", "onnx", "spox", "onnxruntime"}


@pytest.fixture(scope="module")
def lowered(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That bundle with graphs of every precision."""
    path = Path(shutil.copytree(exported, tmp_path_factory.mktemp("lowered") / "model.ff"))
    export_onnx(path, ["fp16", "int8"])
    return path


@pytest.mark.parametrize("compute_capability", [None, *OFFERED])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_other_precisions_are_built(lowered: Path, precision: Precision, compute_capability: str | None) -> None:
    """fp16 for every GPU; int8 wherever float32 is, since goodness and logits stay in float32."""
    if (precision, compute_capability) == ("int8", "7.5"):
        pytest.skip("TensorRT-RTX has no float32 products for 7.5, and int8 graphs keep some")
    device = workstation(compute_capability) if compute_capability else None
    rows = build_engines(lowered, "tensorrt-rtx", device, precision, FEW)
    assert len(rows) == len(graph_files(Bundle(lowered).manifest, precision))
    assert all(row.precision == precision and f"-{precision}/" in row.artefact for row in rows)


CLASSES = Path(__file__).parents[1] / "fixtures" / "classes.ff"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_graphs_of_class_goodness_are_built(precision: Precision, tmp_path: Path) -> None:
    """Goodness, units and, in fp32, the gradients of units with their readouts: for every GPU in one."""
    path = Path(shutil.copytree(CLASSES, tmp_path / "classes.ff"))
    rows = build_engines(path, "tensorrt-rtx", None, precision, FEW)
    gradients = {"gradient1", "gradient2", "gradient3"} if precision == "fp32" else set()
    assert {Path(row.artefact).stem for row in rows} == {"goodness", "unit1", "unit2", "unit3"} | gradients
    assert sidecars(path)["goodness"].inputs["images"].max == (4, 1, 16, 16)
    assert all(Bundle(path).verified(row.artefact).stat().st_size == row.size > 1000 for row in rows)


def test_a_graph_that_it_refuses_is_named(bundle: Path) -> None:
    """A graph with an operator that no parser has: which node, and why."""
    import onnx
    from onnx import TensorProto, helper

    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3])

    node = helper.make_node("Det", ["input"], ["output"], name="determinant")
    graph = helper.make_graph([node], "ffedge unit3", [value("input")], [value("output")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    manifest = write_bundle(bundle, Bundle(bundle).manifest, {"unit3.onnx": model.SerializeToString()}).manifest
    with pytest.raises(BackendError, match=r"unit3\.onnx: tensorrt-rtx refuses Det determinant"):
        build_engines(bundle, "tensorrt-rtx", limit=FEW)
    assert Bundle(bundle).manifest == manifest
    assert not (bundle / "engines").exists()


def test_tensorrts_own_options(bundle: Path) -> None:
    """What is set for TensorRT alone, on the same API: the names are right."""
    from ffexport.engines import _set_compatibility

    log = rtx.Logger(rtx.Logger.ERROR)
    builder = rtx.Builder(log)
    config = builder.create_builder_config()
    _set_compatibility(rtx, config, EngineOptions(version_compatible=True, hardware_compatible=True))
    assert config.get_flag(rtx.BuilderFlag.VERSION_COMPATIBLE)
    with pytest.raises(UsageError, match="of one release"):
        build_engines(bundle, "tensorrt-rtx", options=EngineOptions(version_compatible=True))


def test_sidecars_are_plain_json(bundle: Path) -> None:
    build_engines(bundle, "tensorrt-rtx", workstation("8.9"), limit=FEW)
    name = f"engines/tensorrt-rtx-{rtx.__version__}-sm89-fp32/classifier.json"
    text = json.loads((bundle / name).read_text())
    assert (text["library"], text["version"], text["precision"]) == ("tensorrt-rtx", rtx.__version__, "fp32")
    assert text["inputs"]["images"]["min"] == [1, 1, 28, 28]


def test_the_bundles_report_has_a_row_for_every_engine(bundle: Path) -> None:
    """Once, however often they are built; an export of the graphs keeps it."""
    for _ in range(2):
        rows = build_engines(bundle, "tensorrt-rtx", workstation("8.9"), limit=FEW)
    export_onnx(bundle)
    report = read_report(Bundle(bundle))
    assert report
    assert [row for row in report.artefacts if row.artefact.endswith(".engine")] == rows
    assert {row.artefact for row in rows} <= Bundle(bundle).manifest.files.keys()


@pytest.mark.gpu
@pytest.mark.skipif(cuda.missing() is not None, reason="running an engine needs a GPU")
def test_engines_reproduce_the_golden_vectors(bundle: Path) -> None:
    if cuda.compute_capability() not in OFFERED:
        pytest.skip(f"TensorRT-RTX does not target compute capability {cuda.compute_capability()}")
    build_engines(bundle, "tensorrt-rtx")
    require(check(Model(bundle, session=Session("tensorrt-rtx"))), "tensorrt-rtx")
