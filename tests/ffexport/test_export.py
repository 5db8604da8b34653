"""Export as a whole: the same bytes twice, all checks again, a device's verdict, and bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from commands import in_process_text

from ffexport import export
from ffexport.artefacts import REPORT
from ffexport.engines import missing
from ffexport.export import export_onnx
from ffruntime.core.bundle import Bundle
from ffruntime.core.devices import profiles_folder
from ffruntime.core.errors import StorageError
from ffruntime.core.precision import Precision


def ffexport(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """Without any data set: exemplars alone are fast."""
    return in_process_text("ffexport", *arguments, env={"FF_DATA": "/nonexistent", **environment})


def contents(path: Path) -> dict[str, bytes]:
    """Every file, and every folder, of a bundle."""
    return {str(f.relative_to(path)): f.read_bytes() if f.is_file() else b"" for f in path.rglob("*")}


def assert_one_line(done: subprocess.CompletedProcess, code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


@pytest.fixture(scope="module")
def with_int8(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained bundle, exported in int8, too. Shared: what a test writes must be the same bytes."""
    path = Path(shutil.copytree(exported, tmp_path_factory.mktemp("int8") / "model.ff"))
    export_onnx(path, ("int8",))
    return path


@pytest.mark.slow
def test_exporting_twice_gives_the_same_bytes(with_int8: Path) -> None:
    before = Bundle(with_int8).manifest.files
    assert {"gradient1.onnx", "int8/unit1.onnx", "int8/weights.safetensors"} <= before.keys()
    export_onnx(with_int8, ("int8",))
    assert Bundle(with_int8).manifest.files == before


@pytest.mark.slow
def test_what_another_export_made_stays(with_int8: Path) -> None:
    """Exporting fp32 again leaves int8 and its rows alone."""
    before = Bundle(with_int8).manifest.files
    report = export_onnx(with_int8)
    after = Bundle(with_int8).manifest.files
    assert {name for name in before if before[name] != after[name]} <= {REPORT}  # its rows are in another order
    others = {REPORT, "golden.safetensors", "exemplars.safetensors"}
    assert {row.artefact for row in report.artefacts} == after.keys() - others


def test_every_input_and_output_is_named_and_documented(exported: Path) -> None:
    for file in exported.glob("*.onnx"):
        model = onnx.load(file, load_external_data=False)
        assert model.doc_string, file
        assert model.graph.doc_string, file
        for value in (*model.graph.input, *model.graph.output):
            assert value.name, file
            assert value.doc_string, (file, value.name)
        names = [node.name for node in model.graph.node]
        assert all(names), file
        assert len(set(names)) == len(names), file
    units = onnx.load(exported / "goodness.onnx", load_external_data=False).graph.node
    layers = [node.name for node in units if node.op_type in ("Conv", "Gemm")]
    assert layers == ["unit1.conv1", "unit2.conv1", "unit3.linear1"]


@pytest.mark.slow
def test_check_repeats_all_checks_and_writes_nothing(with_int8: Path) -> None:
    before = contents(with_int8)
    done = ffexport("--model", with_int8, "--check", "--json")
    assert done.returncode == 0, done.stderr
    kept, again = json.loads((with_int8 / REPORT).read_text()), json.loads(done.stdout)
    assert again["artefacts"] == kept["artefacts"]
    assert contents(with_int8) == before


def test_check_finds_what_is_damaged(bundle: Path) -> None:
    data = bytearray((bundle / "unit2.onnx").read_bytes())
    data[-1] ^= 1
    (bundle / "unit2.onnx").write_bytes(data)
    assert_one_line(ffexport("--model", bundle, "--check"), 3, "unit2.onnx", "damaged")


@pytest.mark.slow
def test_a_device_decides_the_precision(bundle: Path) -> None:
    done = ffexport("--model", bundle, "--device", "raspberry-pi-5", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    plan = report["device"]
    assert (plan["device"], plan["precision"]) == ("raspberry-pi-5", "int8")
    assert [row["use"] for row in plan["needs"]] == ["goodness", "classifier", "shortlist", "update"]
    assert all(row["fits"] and row["memory"]["activations"] > 0 for row in plan["needs"])
    assert (bundle / "int8" / "goodness.onnx").exists()
    assert json.loads((bundle / REPORT).read_text())["device"] == plan


def device(folder: Path, **figures: int) -> Path:
    """A Raspberry Pi Zero 2 W with other figures: the first of each name is replaced."""
    text = (profiles_folder() / "raspberry-pi-zero-2w.toml").read_text()
    for name, value in figures.items():
        head, _, tail = text.partition(f"{name} = ")
        text = f"{head}{name} = {value}\n{tail.partition(chr(10))[2]}"
    file = folder / "tiny.toml"
    file.write_text(text)
    return file


@pytest.mark.slow
@pytest.mark.skipif(not missing("tensorrt"), reason="TensorRT builds here")
def test_what_a_device_runs_and_cannot_be_made_here_is_said_and_not_failed(bundle: Path) -> None:
    done = ffexport("--model", bundle, "--device", "jetson-orin-nano", "--precision", "fp32", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["artefact"]: row["verdict"] for row in json.loads(done.stdout)["artefacts"]}
    assert rows["goodness.onnx"] == "ok"
    assert rows["engines: tensorrt"].startswith("not made here: ")
    assert "Jetson Orin Nano" in rows["engines: tensorrt"]  # which machine makes it


def test_a_device_that_is_too_small_is_refused_before_any_work(bundle: Path, tmp_path: Path) -> None:
    before = contents(bundle)
    done = ffexport("--model", bundle, "--device", device(tmp_path, total_mib=64, usable_mib=32))
    assert_one_line(done, 6, "tiny, fp32", "does not fit", "of 29 MiB", "weights", "would fit")
    assert contents(bundle) == before


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"usable_mib": 1024}, ("tiny.toml", "`usable_mib` 1024 is more than `total_mib` 512", "$.memory")),
        ({"total_mib": 0}, ("tiny.toml", "$.memory.total_mib")),
        ({"total_mib": 1 << 30}, ("tiny.toml", "$.memory.total_mib")),
        ({"max_batch": 0}, ("tiny.toml", "$.inference.max_batch")),
        ({"max_labels": -3}, ("tiny.toml", "$.inference.max_labels")),
        ({"max_batch": 10**9}, ("tiny.toml", "$.inference.max_batch")),
        ({"cores": 10**6}, ("tiny.toml", "$.cpu.cores")),
    ],
)
def test_nonsense_limits_are_refused(
    figures: dict[str, int], words: tuple[str, ...], exported: Path, tmp_path: Path
) -> None:
    assert_one_line(ffexport("--model", exported, "--device", device(tmp_path, **figures)), 2, *words)


def test_a_bundle_without_weights_is_refused(bundle: Path) -> None:
    (bundle / "weights.safetensors").unlink()
    before = contents(bundle)
    assert_one_line(ffexport("--model", bundle, "--precision", "fp16"), 3, "weights.safetensors", "missing")
    assert contents(bundle) == before


@pytest.mark.parametrize("name", ["weights.safetensors", "golden.safetensors", "exemplars.safetensors"])
def test_a_wrong_hash_is_refused(name: str, bundle: Path) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[-1] ^= 1
    (bundle / name).write_bytes(data)
    before = contents(bundle)
    assert_one_line(ffexport("--model", bundle, "--precision", "int8"), 3, name, "damaged")
    assert contents(bundle) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failure", "precisions"),
    [(KeyboardInterrupt, ()), pytest.param(RuntimeError, ("fp16",), marks=pytest.mark.slow)],
)
def test_an_interrupted_build_leaves_the_bundle_as_it_was(
    failure: type[BaseException],
    precisions: tuple[Precision, ...],
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_arguments: object) -> None:
        raise failure

    before = contents(bundle)
    monkeypatch.setattr(export, "prove", interrupted)
    with pytest.raises(failure):
        export_onnx(bundle, precisions)
    assert contents(bundle) == before


@pytest.mark.slow
def test_a_full_disk_leaves_the_bundle_as_it_was(exported: Path, small_disk: Callable[[str], Path]) -> None:
    """Room for the bundle, and not for int8 beside it: no file and no folder is left behind."""
    disk = small_disk("2m")
    path = Path(shutil.copytree(exported, disk / "model.ff"))
    free = os.statvfs(disk)
    (disk / "filler").write_bytes(b"\0" * ((free.f_bavail - 8) * free.f_bsize))
    before = contents(path)
    with pytest.raises(StorageError, match="No space left"):
        export_onnx(path, ("int8",))
    assert contents(path) == before
