"""An aarch64 user space in a folder, of Debian 13, run by QEMU: nothing is installed.

    python benchmarks/user_space.py [FOLDER]

FOLDER (`$FF_USER_SPACE`, else `~/.cache/ffedge/aarch64`) then holds Debian's Python with its libraries, unpacked;
the wheels of the `[cpu]` extra, of pytest and of hypothesis, and this checkout's own; Debian's static `qemu-user`
(Debian 12's crashes importing onnxruntime); and `python3`, a program that starts it. The machine's packages, its
apt configuration and `binfmt_misc` are left alone, and no package's script runs. What is there already is not
fetched again, but this checkout's wheel is always made anew. 130 MB are fetched, half of it QEMU.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from filelock import FileLock
from msgspec import Struct

ROOT = Path(__file__).parents[1]
SUITE, PYTHON, MIRROR = "trixie", "3.13", "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PACKAGES = ("python3", "libstdc++6")  # what they depend on comes with them
TESTS = ("pytest", "hypothesis")
WHEEL_OF = ("pyproject.toml", "README.md", "LICENSE", "ffruntime", "fftrain", "ffexport", "devices")
MERGED = ("bin", "lib", "lib64", "sbin")  # links into usr/, which a package that is not unpacked here makes
QEMU, MADE = "qemu-aarch64", "made.json"
SECONDS = 900  # that a step of setting up may take


class Unavailable(Exception):
    """It cannot be set up here; the message is the reason, in one line."""


class UserSpace(Struct, frozen=True):
    """One that is set up. `python` starts its Python, with its packages on the path."""

    folder: Path  # absolute
    versions: dict[str, str]  # of Debian's packages and of the wheels, by name

    @property
    def python(self) -> Path:
        return self.folder / "python3"

    def run(
        self, arguments: Sequence[str | Path], cpu: str, cwd: Path | None = None, path: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Its Python with these arguments on a processor that QEMU knows, such as `cortex-a53`; output captured.

        `path`: where modules are looked for first, such as a checkout; the wheel of ffedge is there else.
        """
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment |= {"QEMU_CPU": cpu} | ({"PYTHONPATH": str(path)} if path else {})
        command = [str(self.python), *map(str, arguments)]
        return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True)


def default_folder() -> Path:
    """`$FF_USER_SPACE`, else in the user's cache."""
    given = os.environ.get("FF_USER_SPACE")
    return Path(given) if given else Path.home() / ".cache" / "ffedge" / "aarch64"


def found(folder: Path) -> UserSpace | None:
    """The one that was set up there, with whatever wheel of ffedge it has; None where there is none."""
    made = folder / MADE
    return UserSpace(folder.resolve(), json.loads(made.read_text())["versions"]) if made.exists() else None


def set_up(folder: Path) -> UserSpace:
    """Set it up there, or what is missing of it. Raises `Unavailable`."""
    if problem := unavailable():
        raise Unavailable(problem)
    folder.mkdir(parents=True, exist_ok=True)
    folder, made = folder.resolve(), folder / MADE
    with FileLock(folder / ".lock"), tempfile.TemporaryDirectory() as scratch:
        depends = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.scripts]")[0]
        key = hashlib.sha256(f"{SUITE} {PYTHON} {PACKAGES} {TESTS} {depends}".encode()).hexdigest()
        wheel = build_wheel(Path(scratch))
        if made.exists() and json.loads(made.read_text())["key"] == key:
            install(folder, ["--no-deps", "--upgrade", str(wheel)])
        else:
            made.unlink(missing_ok=True)
            debian = unpack_debian(folder, Path(scratch))
            shutil.rmtree(folder / "site", ignore_errors=True)
            install(folder, [f"{wheel}[cpu]", *TESTS])
            write_starter(folder)
            text = json.dumps({"key": key, "versions": debian | wheels(folder / "site")}, indent=2)
            made.write_text(text + "\n")
    space = found(folder)
    assert space
    return space


def unavailable() -> str | None:
    """What keeps this machine from setting it up, without trying; or None."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"Linux on x86-64 is needed, this is {sys.platform} on {platform.machine()}"
    missing = [name for name in ("apt-get", "dpkg-deb") if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)} here: Debian's packages are fetched and unpacked by them"
    if not KEYRING.exists():
        return f"no {KEYRING}: apt-get install debian-archive-keyring"
    return None


def build_wheel(folder: Path) -> Path:
    """This checkout's wheel, from a copy of what belongs to it: nothing of a former build is in it."""
    copy = folder / "source"
    copy.mkdir()
    for name in WHEEL_OF:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    perform([*PIP, "wheel", "-q", "--no-deps", "-w", str(folder), str(copy)], "the wheel")
    return next(folder.glob("ffedge-*.whl"))


PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def install(folder: Path, wanted: Sequence[str]) -> None:
    """Wheels for aarch64, unpacked into `site`."""
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in (28, 27, 26, 24, 17)]
    platforms.append("manylinux2014_aarch64")
    target = [option for name in platforms for option in ("--platform", name)]
    target += ["--python-version", PYTHON, "--implementation", "cp", "--only-binary", ":all:"]
    perform([*PIP, "install", "-q", "--target", str(folder / "site"), *target, *wanted], "wheels for aarch64")


def unpack_debian(folder: Path, scratch: Path) -> dict[str, str]:
    """Debian's Python in `root`, and QEMU beside it -> the packages' versions by name."""
    apt, archives, root = configure_apt(scratch), scratch / "archives", folder / "root"
    perform([*apt, "update"], f"the list of Debian's packages at {MIRROR}")
    perform([*apt, "install", "-y", "--download-only", *PACKAGES], "Debian's Python")
    shutil.rmtree(root, ignore_errors=True)
    for name in MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in sorted(archives.glob("*.deb")):
        perform(["dpkg-deb", "-x", str(package), str(root)], package.name)
    perform([*apt, "download", "qemu-user:amd64"], "Debian's qemu-user", cwd=archives)
    perform(["dpkg-deb", "-x", str(next(archives.glob("qemu-user_*.deb"))), str(scratch / "qemu")], "qemu-user")
    shutil.move(scratch / "qemu" / "usr" / "bin" / QEMU, folder / QEMU)
    named = (unquote(package.name).split("_") for package in archives.glob("*.deb"))
    versions = {name: version.rpartition(":")[2] for name, version, _ in named}
    return {name: versions[name] for name in (f"python{PYTHON}", "libc6", "libsqlite3-0", "qemu-user")}


def configure_apt(scratch: Path) -> list[str]:
    """apt-get with a state, lists and sources of its own, as on a machine where no package is installed."""
    for name in ("lists/partial", "archives/partial"):
        (scratch / name).mkdir(parents=True)
    (scratch / "status").touch()
    (scratch / "sources.list").write_text(f"deb [signed-by={KEYRING}] {MIRROR} {SUITE} main\n")
    options = {
        "Dir::State": scratch,
        "Dir::State::status": scratch / "status",
        "Dir::State::lists": scratch / "lists",
        "Dir::Cache": scratch,
        "Dir::Cache::archives": scratch / "archives",
        "Dir::Etc::SourceList": scratch / "sources.list",
        "Dir::Etc::SourceParts": "-",
        "APT::Architecture": "arm64",
        "APT::Architectures::": "arm64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Debug::NoLocking": "true",
    }
    settings = [f"{name}={value}" for name, value in options.items()]
    settings.append("APT::Architectures::=amd64")  # QEMU's
    return ["apt-get", "-q", *(word for setting in settings for word in ("-o", setting))]


def write_starter(folder: Path) -> None:
    """`python3`: starts the user space's Python with its packages, from anywhere, also as `sys.executable`."""
    program, root = folder / "python3", folder / "root"
    path = f'PYTHONPATH="${{PYTHONPATH:+$PYTHONPATH:}}{folder / "site"}"'
    start = f'exec "{folder / QEMU}" -L "{root}" -0 "$0" "{root}/usr/bin/python{PYTHON}" "$@"'
    program.write_text(f"#!/bin/sh\nexport {path}\n{start}\n")
    program.chmod(0o755)


def wheels(site: Path) -> dict[str, str]:
    """Versions of the wheels that are unpacked there."""
    names = (folder.name.removesuffix(".dist-info").rpartition("-") for folder in site.glob("*.dist-info"))
    return {name: version for name, _, version in sorted(names) if name != "ffedge"}


def perform(command: Sequence[str], what: str, cwd: Path | None = None) -> None:
    """Run a step of setting up. Raises `Unavailable` with what it said last."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{what}: took over {SECONDS} seconds") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith(("E:", "ERROR", "dpkg", "W:"))]
        raise Unavailable(f"{what}: {' '.join(said[-1:]) or done.stderr[-300:].strip()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=default_folder(), metavar="FOLDER")
    o = parser.parse_args()
    try:
        space = set_up(o.folder)
    except Unavailable as error:
        sys.exit(f"no aarch64 user space: {error}")
    print(f"{space.python}: {', '.join(f'{name} {version}' for name, version in space.versions.items())}")


if __name__ == "__main__":
    main()
