"""The wheel of a clean checkout: the same bytes when it is built again, installed and used by every Python here.

    python benchmarks/release.py [--only PART ...]

Parts: `wheel`, `pythons` and `resolved`. What is committed is built, in a folder of its own. For each Python that
ffedge is for, the wheel is installed with `[cpu]` from wheels alone, and commands of the device program run in
an empty folder; a Python that is neither on the path nor pyenv's is not fetched. What the extras would install
elsewhere is asked of the package index for each Python and architecture, from wheels alone: no compiler is needed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import record, recorded

from ffruntime.core.durable import sha256

NAME = "release"
ROOT = Path(__file__).parents[1]
PARTS = ("wheel", "pythons", "resolved")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
MACHINES = ("aarch64", "x86_64")
EXTRAS = ("cpu", "cpu,camera,serve,sign", "gpu", "rtx", "all")
X86_ALONE = ("gpu", "rtx")
UV = (sys.executable, "-m", "uv", "-q")
PICTURE = ROOT / "examples" / "three.png"
COMMANDS: tuple[tuple[object, ...], ...] = (
    ("verify",),
    ("classify", PICTURE),
    ("learn", PICTURE, "--label", "drei", "--new-class", "--yes"),
    ("learn", "--rehearse", 2, "--tolerance", 1),
    ("history",),
    ("export-state", "learned.state"),
    ("apply-state", "learned.state", "--state", "other.state", "--force"),
    ("rollback",),
    ("plan", "--device", "raspberry-pi-5"),
    ("bench", "--seconds", "0.05", "--mode", "goodness"),
)


def uv(*arguments: object, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*UV, *map(str, arguments)], input=given, capture_output=True, text=True)


def require(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        sys.exit(f"{' '.join(done.args)}: {done.stderr[-2000:]}")


def built(folder: Path) -> Path:
    """The wheel of what is committed, made in a new checkout in that folder."""
    checkout = folder / "checkout"
    checkout.mkdir(parents=True)
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", "HEAD"], check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(checkout)], input=archive, check=True)
    require(uv("build", "--wheel", "--out-dir", folder, checkout))
    return next(folder.glob("*.whl"))


def interpreter(python: str) -> str | None:
    """One of that version on this machine."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for name in (f"python{python}", *map(str, pyenv.glob(f"{python}.*/bin/python"))):
        path = shutil.which(name)
        said = subprocess.run([path, "-V"], capture_output=True, text=True).stdout if path else ""
        if said.startswith(f"Python {python}."):
            return path
    return None


def used(wheel: Path, python: str, folder: Path) -> dict[str, Any] | None:
    """The wheel installed for a Python, and what became of the commands; None where that Python is not here."""
    path, environment = interpreter(python), folder / f"python{python}"
    if path is None:
        return None
    require(uv("venv", "--python", path, environment))
    program = environment / "bin" / "python"
    only = ("--only-binary", ":all:", "--python", program)
    require(uv("pip", "install", *only, f"ffedge[cpu] @ {wheel.as_uri()}"))
    packages = json.loads(uv("pip", "list", "--format", "json", "--python", program).stdout)
    elsewhere = folder / f"elsewhere{python}"
    elsewhere.mkdir()
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FF_"))}
    codes = []
    for command in COMMANDS:
        words = [environment / "bin" / "ffruntime", *command]
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, cwd=elsewhere, env=variables)
        codes.append([command[0], done.returncode])
        print(python, *command, done.returncode, done.stderr.strip()[-200:] if done.returncode else "", flush=True)
    version = subprocess.run([program, "-V"], capture_output=True, text=True).stdout.split()[1]
    found = {row["name"]: row["version"] for row in packages}
    return {"version": version, "onnxruntime": found["onnxruntime"], "numpy": found["numpy"], "commands": codes}


def resolved(wheel: Path) -> dict[str, dict[str, int | str]]:
    """Extra -> architecture and Python -> how many packages would be installed, or why none."""
    found: dict[str, dict[str, int | str]] = {}
    for extra in EXTRAS:
        for machine in MACHINES[1:] if extra in X86_ALONE else MACHINES:
            for python in PYTHONS:
                target = ("--python-platform", f"{machine}-manylinux_2_28", "--python-version", python)
                only = ("--only-binary", ":all:", "--no-header", "--no-annotate", "-")
                done = uv("pip", "compile", *only, *target, given=f"ffedge[{extra}] @ {wheel.as_uri()}")
                count = done.stdout.count("==")
                what = done.stderr.strip().splitlines()[-1:] if done.returncode else []
                found.setdefault(extra, {})[f"{machine} {python}"] = what[0] if what else count
                print(extra, machine, python, found[extra][f"{machine} {python}"], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    o = parser.parse_args()
    result = {name: part for name, part in recorded(NAME).items() if name != "machine"}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        wheel = built(folder / "first")
        if "wheel" in o.only:
            again = built(folder / "second")
            result["wheel"] = {"name": wheel.name, "bytes": wheel.stat().st_size, "sha256": sha256(wheel)}
            result["wheel"]["again"] = sha256(again)
        if "pythons" in o.only:
            result["pythons"] = {python: used(wheel, python, folder) for python in PYTHONS}
        if "resolved" in o.only:
            result["resolved"] = resolved(wheel)
    record(NAME, result)


if __name__ == "__main__":
    main()
