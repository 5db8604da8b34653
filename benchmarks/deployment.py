"""The image and the unit of `deploy/`, tried on Debian in a folder, without docker's daemon or systemd out here.

    python benchmarks/deployment.py FOLDER [--only PART ...]

Parts: `image` and `unit`. FOLDER then holds Debian 13's essential packages (by debootstrap), which stand for
debian:trixie-slim, and another Debian that has buildah. buildah makes the image of what is committed; its root is
then run as a container: process 1 of its namespace, read-only, without privileges and network, the volume mounted.
For the unit, Debian's systemd boots in namespaces of its own, on that root with systemd added. Root on Linux is
needed, and the command unshare; nothing is installed on the machine. 200 MB are fetched, half of them once.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import record, recorded

NAME = "deployment"
ROOT = Path(__file__).parents[1]
PARTS = ("image", "unit")
SUITE, MIRROR = "trixie", "http://deb.debian.org/debian"
BASE, IMAGE = "docker.io/library/debian:trixie-slim", "localhost/ffedge"
STATE, UNIT = "var/lib/ffedge", "ffruntime.service"
PICTURE = ROOT / "examples" / "three.png"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
SECONDS = 120.0
LEARN = ("learn", "inbox/one.png", "--label", "drei", "--new-class", "--yes")

INSIDE = """
mount --bind "$NEW" "$NEW"
for name in proc sys dev; do mount --rbind /$name "$NEW/$name"; done
mkdir -p "$NEW/base" "$NEW/src"
mount --bind "$BASE_ROOT" "$NEW/base"; mount --bind "$SOURCE" "$NEW/src"
exec chroot "$NEW" sh -euc "$SCRIPT"
"""
BUILD = f"""
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
if ! buildah inspect --type image {BASE} > /dev/null 2>&1; then
    c=$(buildah from scratch); m=$(buildah mount $c); cp -a /base/. $m/
    buildah umount $c; buildah commit -q --rm $c {BASE}
fi
printf '[global]\\ncert = {CERTIFICATES}\\n' > /pip.conf
cd /src
buildah build --ulimit nofile=$(ulimit -n) --ulimit nproc=$(ulimit -p) --layers --pull=never \
    --volume /ca.crt:{CERTIFICATES}:ro --volume /pip.conf:/etc/pip.conf:ro \
    --format docker -f deploy/Dockerfile -t {IMAGE} .
buildah inspect --type image {IMAGE} > /image.json
c=$(buildah from --pull=never {IMAGE}); m=$(buildah mount $c); rm -rf /image; cp -a $m /image
buildah umount $c; buildah rm $c
"""
CONTAINER = """
mount --bind "$NEW" "$NEW"
mount --bind "$VOLUME" "$NEW/var/lib/ffedge"
mount -t tmpfs -o size=64m,mode=1777 tmpfs "$NEW/tmp"
mount -t proc proc "$NEW/proc"
mount -t tmpfs -o mode=755 tmpfs "$NEW/dev"
for name in null zero urandom; do touch "$NEW/dev/$name"; mount --bind "/dev/$name" "$NEW/dev/$name"; done
mount -o remount,bind,ro "$NEW"
if touch "$NEW/refused" 2> /dev/null; then exit 99; fi
cd "$NEW"
exec chroot "$NEW" setpriv --reuid "$ID" --regid "$ID" --clear-groups --no-new-privs --bounding-set=-all \
    --inh-caps=-all env -i --chdir="$FROM" $VARIABLES "$@"
"""
BOOT = """
mount --make-rprivate /
mount --bind "$NEW" "$NEW"
cd "$NEW"
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs sys; mkdir -p sys/fs/cgroup; mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev; mkdir dev/shm dev/pts
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts; ln -s pts/ptmx dev/ptmx
for name in null zero full random urandom tty; do touch dev/$name; mount --bind /dev/$name dev/$name; done
mkdir -p old; pivot_root . old; umount -l /old
exec env -i container=other PATH=/usr/sbin:/usr/bin /lib/systemd/systemd systemd.unit=basic.target
"""
ALONE = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
Row = list[str | int]  # what was run, its exit code, what is worth saying of it


def perform(command: list[str], **variables: str | Path) -> str:
    """Its stdout; a failure ends the program."""
    environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def until(happened: Callable[[], Any]) -> Any:
    """What it says, as soon as that is something."""
    end = time.monotonic() + SECONDS
    while not (said := happened()):
        if time.monotonic() > end:
            sys.exit("it has not happened in two minutes")
        time.sleep(0.2)
    return said


def debian(folder: Path, name: str, packages: tuple[str, ...] = ()) -> Path:
    """Debian's essential packages and others in a folder of that name."""
    root = folder / name
    if not (root / "made").exists():
        with tempfile.TemporaryDirectory() as scratch:
            subprocess.run(
                ["apt-get", "-q", "download", "debootstrap"], cwd=scratch, check=True, capture_output=True
            )
            perform(["dpkg-deb", "-x", str(next(Path(scratch).glob("*.deb"))), scratch])
            shutil.rmtree(root, ignore_errors=True)
            program = ["sh", f"{scratch}/usr/sbin/debootstrap", "--variant=minbase", SUITE, str(root), MIRROR]
            perform(program, DEBOOTSTRAP_DIR=f"{scratch}/usr/share/debootstrap")
        add(root, packages)
        (root / "made").touch()
    return root


def add(root: Path, packages: tuple[str, ...]) -> None:
    """Install packages there, by its own apt."""
    if packages:
        shutil.copy("/etc/resolv.conf", root / "etc")
        steps = "apt-get -q update && apt-get -q install -y --no-install-recommends"
        command = ["chroot", str(root), "sh", "-c", f"{steps} {' '.join(packages)}"]
        perform([*ALONE, *command], DEBIAN_FRONTEND="noninteractive")
    shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)


def build(folder: Path, builder: Path) -> dict[str, Any]:
    """The image of what is committed -> what docker would know of it; its root is then `builder/image`."""
    base = debian(folder, "base")
    if CERTIFICATES.exists():
        shutil.copy(CERTIFICATES, builder / "ca.crt")
    with tempfile.TemporaryDirectory() as source:
        archive = subprocess.run(["git", "-C", str(ROOT), "archive", "HEAD"], check=True, capture_output=True)
        subprocess.run(["tar", "-x", "-C", source], input=archive.stdout, check=True)
        said = perform([*ALONE, "sh", "-euc", INSIDE], NEW=builder, BASE_ROOT=base, SOURCE=source, SCRIPT=BUILD)
    print(said[-400:])
    config: dict[str, Any] = json.loads((builder / "image.json").read_text())["Docker"]["config"]
    return config


def container(config: dict[str, Any], root: Path, volume: Path, *words: str) -> subprocess.Popen[str]:
    """These words as process 1 of a container of the image; without any, its own command."""
    environment = {
        "PATH": os.environ["PATH"],
        "NEW": str(root),
        "VOLUME": str(volume),
        "ID": config["User"],
        "FROM": config["WorkingDir"],
        "VARIABLES": " ".join(config["Env"]),
    }
    command = [*ALONE, "--net", "sh", "-euc", CONTAINER, "container", *(words or own(config))]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def own(config: dict[str, Any]) -> list[str]:
    return [*config["Entrypoint"], *config["Cmd"]]


def try_image(folder: Path) -> dict[str, Any]:
    """Build the image, and run it as a container would be."""
    builder = debian(folder, "builder", ("buildah", "crun"))
    config, root = build(folder, builder), builder / "image"
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        volume = Path(scratch) / "volume"
        perform(["cp", "-a", str(root / STATE), str(volume)])
        shutil.copy(PICTURE, volume / "inbox" / "one.png")

        def tried(*words: str, what: str = "") -> str:
            said, errors = (process := container(config, root, volume, *words)).communicate()
            rows.append([what or " ".join(words), process.returncode])
            print(rows[-1], errors[-300:], flush=True)
            return said

        tried(*config["Healthcheck"]["Test"][1:], what="the command of HEALTHCHECK")
        for words in (LEARN, ("history",), ("classify", "inbox/one.png"), ("bench", "--seconds", "0.05")):
            tried(*config["Entrypoint"], *words)
        tried("sh", "-c", "id -u; ! touch /opt/ffedge/x && touch /tmp/x", what="writing elsewhere is refused")
        process = container(config, root, volume)
        assert process.stderr
        assert process.stdout
        while "watching" not in process.stderr.readline():
            pass
        shutil.copy(PICTURE, volume / "inbox" / "two.png")
        answer = json.loads(process.stdout.readline())["label"]
        (first,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(first), 15)
        process.communicate(timeout=SECONDS)
        rows.append([f"{' '.join(own(config))}: answers '{answer}', then SIGTERM", process.returncode])
    version = perform(["chroot", str(builder), "buildah", "--version"]).split()[2]
    sizes = (file.lstat().st_size for file in root.rglob("*") if not file.is_symlink() and file.is_file())
    return {"buildah": version, "bytes": sum(sizes), "user": config["User"], "rows": rows}


def try_unit(folder: Path) -> dict[str, Any]:
    """Start the unit by Debian's systemd, and let it meet what happens to a device."""
    image, root = folder / "builder" / "image", folder / "builder" / "booted"
    shutil.rmtree(root, ignore_errors=True)
    perform(["cp", "-a", str(image), str(root)])
    shutil.rmtree(root / STATE)
    add(root, ("systemd",))
    shutil.copy(ROOT / "deploy" / UNIT, root / "etc/systemd/system")
    machine = subprocess.Popen(
        [*ALONE, "--cgroup", "--uts", "--ipc", "--net", "sh", "-euc", BOOT],
        env={"PATH": os.environ["PATH"], "NEW": str(root)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return met(machine, root)
    finally:
        machine.kill()  # and with it the namespace's process 1, and all others in it
        machine.wait()


def met(machine: subprocess.Popen[bytes], root: Path) -> dict[str, Any]:
    """What became of the unit on a machine that boots."""
    (first,) = until(lambda: Path(f"/proc/{machine.pid}/task/{machine.pid}/children").read_text().split())
    spaces = ("--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--root", "--wd")
    rows: list[Row] = []

    def there(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["nsenter", "-t", first, *spaces, "--", *words], capture_output=True, text=True)

    def tried(what: str, *words: str) -> str:
        done = there(*words)
        rows.append([what, done.returncode])
        print(rows[-1], done.stderr[-300:], flush=True)
        return done.stdout

    def shown(*names: str) -> dict[str, str]:
        said = there("systemctl", "show", UNIT, *(f"-p{name}" for name in names)).stdout
        return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)

    def journal() -> str:
        return there("journalctl", "-u", UNIT, "-o", "cat", "--no-pager").stdout

    def answered(name: str) -> str:
        """The label of a picture that arrives."""
        shutil.copy(PICTURE, root / STATE / "inbox" / name)
        line = until(lambda: next((s for s in journal().splitlines() if name in s and s.startswith("{")), ""))
        return str(json.loads(line)["label"])

    until(lambda: there("systemctl", "is-system-running").stdout.strip() in ("running", "degraded"))
    tried("systemd-analyze verify", "systemd-analyze", "verify", f"/etc/systemd/system/{UNIT}")
    security = tried("systemd-analyze security", "systemd-analyze", "security", "--no-pager", UNIT)
    tried("systemctl start", "systemctl", "start", UNIT)
    if shown("ActiveState")["ActiveState"] != "active":
        sys.exit(journal()[-2000:])
    until(lambda: journal().count("watching"))
    rows.append([f"a picture that arrives is answered: '{answered('one.png')}'", 0])
    as_user = ("setpriv", "--reuid", "ffedge", "--regid", "ffedge", "--clear-groups", "--no-new-privs")
    program = ("env", "--chdir", f"/{STATE}", "/opt/ffedge/bin/ffruntime", *LEARN, "--state", "model.state")
    tried("ffruntime learn beside it, as its user", *as_user, *program)
    rows.append([f"the next picture is answered by what was learned: '{answered('two.png')}'", 0])
    tried("kill -9", "systemctl", "kill", "-s", "KILL", UNIT)
    until(lambda: journal().count("watching") == 2)
    rows.append([f"it starts again by itself, and answers '{answered('three.png')}'", 0])
    main = shown("MainPID")["MainPID"]
    write = f"touch /proc/{main}/root/etc/x /proc/{main}/root/opt/ffedge/x"
    tried("writing in /etc and /opt/ffedge is refused in its mounts", "sh", "-c", f"! {write}")
    tried("systemctl stop", "systemctl", "stop", UNIT)
    ended = shown("ActiveState", "Result", "ExecMainStatus")
    rows.append([f"then it is {ended['ActiveState']}, with {ended['Result']}", int(ended["ExecMainStatus"])])
    exposure = re.search(r"exposure level.*: ([\d.]+ \w+)", security)
    version = there("systemctl", "--version").stdout.split()[1]
    return {"systemd": version, "exposure": exposure[1] if exposure else "", "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    o = parser.parse_args()
    if sys.platform != "linux" or os.geteuid() or not shutil.which("unshare"):
        sys.exit("root on Linux is needed, and unshare")
    result = {name: part for name, part in recorded(NAME).items() if name != "machine"}
    for part in o.only:
        result[part] = {"image": try_image, "unit": try_unit}[part](o.folder.resolve())
        record(NAME, result)


if __name__ == "__main__":
    main()
