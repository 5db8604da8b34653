"""The built wheel in an empty environment: the commands work from another folder, device profiles included."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ffruntime.core.durable import sha256
from ffruntime.core.shipped import MODEL

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
OF_WHEEL = {"pyproject.toml", "README.md", "LICENSE", ".gitignore", "ffruntime", "fftrain", "ffexport", "devices"}


def built(source: Path, folder: Path) -> Path:
    """The wheel of a checkout."""
    uv = [sys.executable, "-m", "uv", "build", "-q", "--wheel", "--out-dir", str(folder), str(source)]
    done = subprocess.run(uv, capture_output=True, text=True)
    if "Failed to fetch" in done.stderr:
        pytest.skip("no network: building a wheel fetches hatchling")
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.mark.posix
def test_the_same_files_are_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """To the byte: wherever and whenever it is built, whatever times and permissions the files have, and whatever
    else lies beside them."""
    copy = tmp_path / "copy"
    shutil.copytree(ROOT, copy, ignore=lambda folder, names: set(names) - OF_WHEEL if Path(folder) == ROOT else ())
    for number, file in enumerate(sorted(copy.rglob("*"))):
        os.utime(file, (1_000_000_000 + number,) * 2)
        if file.is_file():
            file.chmod(0o640)
    (copy / "build" / "lib" / "ffruntime").mkdir(parents=True)
    (copy / "build" / "lib" / "ffruntime" / "former.py").write_text("")
    again = built(copy, tmp_path / "again")
    assert again.name == wheel.name
    assert sha256(again) == sha256(wheel)


def test_wheel_holds_the_three_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"ffedge", "ffexport", "ffruntime", "fftrain"}
    assert "ffruntime/devices/raspberry-pi-5.toml" in names
    assert "fftrain/recipes/paper.toml" in names
    assert {f"ffruntime/models/mnist.ff/{file.name}" for file in MODEL.iterdir()} <= set(names)
    assert any(name.endswith("LICENSE") for name in names)


def test_device_install_runs_without_frameworks(
    wheel: Path, exported: Path, digit_files: list[Path], tmp_path: Path
) -> None:
    """`pip install ffedge[cpu]`: classifies; `fftrain` and `ffexport` name what they need."""
    venv.create(tmp_path / "venv", with_pip=True)
    bin_folder = tmp_path / "venv" / "bin"
    pip = [bin_folder / "python", "-m", "pip", "--disable-pip-version-check", "install", "-q", f"{wheel}[cpu]"]
    installed = subprocess.run(pip, capture_output=True, text=True)
    if "No matching distribution" in installed.stderr:
        pytest.skip("no network: the environment is filled from the package index")
    assert installed.returncode == 0, installed.stderr

    def run(program: str, *arguments: object) -> subprocess.CompletedProcess:
        return subprocess.run(
            [bin_folder / program, *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path
        )

    assert run("ffruntime", "classify", "--model", exported, *digit_files).stdout.count("goodness") == len(
        digit_files
    )
    untaught = run("ffruntime", "classify", ROOT / "examples" / "three.png")
    assert "three.png: 3," in untaught.stdout
    assert "taking the model of digits that comes with ffruntime" in untaught.stderr
    assert "jetson-orin-nano" in run("ffruntime", "devices").stdout
    for program, arguments, extra in (
        ("fftrain", ["mnist"], "train"),
        ("ffexport", ["--model", exported], "export"),
    ):
        done = run(program, *arguments)
        assert done.returncode == 1
        assert f"pip install 'ffedge[{extra}]'" in done.stderr
        assert done.stderr.count("\n") == 1
    subprocess.run([*pip[:4], "uninstall", "-q", "-y", "onnxruntime"], check=True, capture_output=True)
    done = run("ffruntime", "classify", "--model", exported, digit_files[0])
    assert done.returncode == 1
    assert "pip install 'ffedge[cpu]'" in done.stderr


def resolve(wheel: Path, extra: str, machine: str, python: str) -> subprocess.CompletedProcess:
    """What uv would install from wheels alone on that machine."""
    uv = [sys.executable, "-m", "uv", "pip", "compile", "-q", "--only-binary", ":all:", "--no-header", "-"]
    target = ["--python-platform", f"{machine}-manylinux_2_28", "--python-version", python]
    requirement = f"ffedge[{extra}] @ {wheel.as_uri()}"
    return subprocess.run([*uv, *target], input=requirement, capture_output=True, text=True, cwd=wheel.parent)


@pytest.mark.parametrize(
    ("extra", "machine", "python"),
    [
        ("cpu", "aarch64", "3.10"),
        ("cpu", "aarch64", "3.13"),
        ("cpu", "x86_64", "3.13"),
        ("camera", "aarch64", "3.10"),
        ("camera", "x86_64", "3.13"),
        ("gpu", "x86_64", "3.10"),
        ("rtx", "x86_64", "3.10"),
        ("rtx", "x86_64", "3.13"),
        ("serve,sign", "aarch64", "3.10"),
    ],
)
def test_device_extras_resolve_from_wheels_alone(extra: str, machine: str, python: str, wheel: Path) -> None:
    """No compiler on a device: from JetPack 6's Python to the newest, every package of an extra has a wheel."""
    done = resolve(wheel, extra, machine, python)
    if "Failed to fetch" in done.stderr:
        pytest.skip("no network: the package index is asked")
    assert done.returncode == 0, done.stderr
    packages = {
        "camera": "opencv-python-headless",
        "cpu": "onnxruntime",
        "gpu": "onnxruntime-gpu",
        "rtx": "tensorrt-rtx-cu13-libs",
        "serve,sign": "cryptography",
    }
    assert f"{packages[extra]}==" in done.stdout


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "arm64", "AMD64"])
@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_all_brings_exactly_one_onnxruntime(machine: str, system: str, wheel: Path) -> None:
    metadata = next(n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("METADATA"))
    lines = zipfile.ZipFile(wheel).read(metadata).decode().splitlines()
    requirements = [Requirement(line.partition(": ")[2]) for line in lines if line.startswith("Requires-Dist")]
    environment = {"extra": "all", "platform_machine": machine, "sys_platform": system}
    chosen = {r.name for r in requirements if r.marker and r.marker.evaluate(environment)}
    assert len(chosen & {"onnxruntime", "onnxruntime-gpu"}) == 1
    assert "tensorrt" not in chosen
