"""The device program on an emulated aarch64 beside this machine: golden errors, decisions, states that go on.

    python benchmarks/aarch64.py [--space FOLDER] [--only PART …] [--model cpu.ff]

FOLDER is what `user_space.py` set up. Parts: `cortex-a53` and `cortex-a76` (the commands, the golden check, the
decisions on 1,000 validation images, and states that go from one architecture to the other), `tests` (a fast part
of those of `ffruntime`), `slim` (a root of Debian's packages and the wheels alone, read-only, one core, 64 MB of
temporary files, no privileges; this needs root). `--model`: of that bundle, too, decisions on 100 images; else of
the network alone that comes with ffruntime. Parts that are not run stay as they were recorded. Under emulation a
part takes minutes.
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
from pathlib import Path
from typing import Any

import numpy as np
import user_space
from common import record, recorded
from PIL import Image, ImageDraw, ImageFont
from user_space import PYTHON, QEMU, UserSpace

from ffruntime.core.bundle import Bundle
from ffruntime.core.precision import TOLERANCE
from ffruntime.core.shipped import MODEL
from fftrain.dataset import load_for_manifest

ROOT = Path(__file__).parents[1]
INSIDE = Path(__file__).with_name("aarch64_inside.py")
NAME, HERE = "aarch64", "x86_64"
PROCESSORS = ("cortex-a53", "cortex-a76")
STATES = {"cortex-a53": "first", "cortex-a76": "second"}
PARTS = (*PROCESSORS, "tests", "slim")
DEVICES = {"cortex-a53": "raspberry-pi-zero-2w", "cortex-a76": "raspberry-pi-5"}
IMAGES, FEW = 1000, 100  # whose decisions are compared; of a network that takes ten passes
STEPS = "2"  # of an update
CLASS, PICTURES = "A", 10  # what is learned, that no network here knows
LAST = f"{CLASS}{PICTURES - 1}.png"  # which is only asked about
TESTS = ("backend", "chunks", "class_goodness", "heap", "numbers", "optimizer", "shortlist")
TEMPORARY = "64m"
TOLD = (f"python{PYTHON}", "libc6", "qemu-user", "onnxruntime", "numpy")  # of the versions


def letters(folder: Path) -> list[str]:
    """Pictures of a class that the digits' networks do not know."""
    for index in range(PICTURES):
        picture = Image.new("L", (28, 28))
        font = ImageFont.load_default(18 + index % 4)
        ImageDraw.Draw(picture).text((7 + index % 3, 3 + index % 2), CLASS, fill=255, font=font)
        picture.save(folder / f"{CLASS}{index}.png")
    return [f"{CLASS}{index}.png" for index in range(PICTURES)]


def learn(state: str, pictures: list[str]) -> list[str]:
    return ["learn", "--state", state, "--label", CLASS, "--update", "now", "--steps", STEPS, "--yes", *pictures]


def answer(state: str) -> list[str]:
    return ["classify", "--state", state, "--json", LAST]


def begin(state: str, pictures: list[str]) -> list[list[str]]:
    """Here: the golden check, and a state that begins with an update."""
    return [["verify", "--json"], learn(state, pictures), answer(state)]


def go_on(state: str, pictures: list[str], cpu: str) -> list[list[str]]:
    """There: every command, and an update more; and a state that begins there, with what is learned at once."""
    return [
        ["verify", "--json"],
        ["classify", "three.png"],
        learn(state, pictures),
        answer(state),
        ["export-state", "--state", state, f"{state}.state"],
        ["history", "--state", state, "--json"],
        ["rollback", "--state", state],
        ["plan", "--device", DEVICES[cpu]],
        ["bench", "--mode", "goodness", "--seconds", "0.05"],
        ["learn", "--state", f"{state}-new", "--label", CLASS, "--yes", *pictures],
        answer(f"{state}-new"),
    ]


def come_back(state: str, pictures: list[str]) -> list[list[str]]:
    """Here: an update more of both, and what was exported there is applied."""
    applied = f"{state}-applied"
    return [
        learn(state, pictures),
        answer(state),
        ["history", "--state", state, "--json"],
        learn(f"{state}-new", pictures),
        answer(f"{state}-new"),
        ["apply-state", "--state", applied, f"{state}.state"],
        answer(applied),
    ]


def perform(work: Path, steps: list[list[str]], space: UserSpace | None, cpu: str = "") -> list[dict[str, Any]]:
    """The commands, in one process, here or in the user space -> what became of each. Ends where one failed."""
    (work / "steps.json").write_text(json.dumps(steps))
    if space:
        done = space.run([INSIDE, work], cpu, cwd=work)
    else:
        here = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, INSIDE, work], env=here, cwd=work, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{cpu or HERE}: {done.stderr[-2000:]}")
    did: list[dict[str, Any]] = json.loads((work / "did.json").read_text())
    for step in did:
        print(
            f"{cpu or HERE}: ffruntime {' '.join(step['arguments'])}: {step['exit']}, {step['seconds']} s",
            flush=True,
        )
        if step["exit"]:
            sys.exit(step["stderr"])
    return did


def golden_errors(did: list[dict[str, Any]]) -> dict[str, float]:
    """The largest error of each graph, as a share of the golden values."""
    found: dict[str, float] = {}
    for row in json.loads(next(step["stdout"] for step in did if step["arguments"][0] == "verify"))["checks"]:
        found[row["graph"]] = max(found.get(row["graph"], 0.0), row["max_error"] / (row["scale"] or 1))
    return found


def decisions(theirs: np.ndarray, ours: np.ndarray) -> dict[str, float]:
    """Of scores (N, classes) there and here: decisions that differ, where the margin here is more than the golden
    check tolerates, and where it is not."""
    scale = float(np.abs(ours).max())
    first, second = np.sort(ours, 1)[:, :-3:-1].T
    clear, equal = first - second > TOLERANCE * scale, theirs.argmax(1) == ours.argmax(1)
    return {
        "images": len(ours),
        "clear": int(clear.sum()),
        "clear_and_different": int((clear & ~equal).sum()),
        "unclear_and_different": int((~clear & ~equal).sum()),
        "largest_difference": float(np.abs(theirs - ours).max()) / scale,
    }


def answered(did: list[dict[str, Any]]) -> list[str]:
    """What `classify` said of the last picture."""
    said = (step["stdout"] for step in did if step["arguments"][-1] == LAST and "--json" in step["arguments"])
    return [json.loads(text)["label"] for text in said]


def emulated(
    cpu: str, space: UserSpace, models: dict[str, tuple[Path, int]], found: dict[str, Any], work: Path
) -> dict[str, Any]:
    """What is known of the processors, `found`, with that of one of them made anew. This machine begins a state,
    the processor goes on with it and begins another, and this machine goes on with both."""
    pictures, state = letters(work), STATES[cpu]
    shutil.copy(ROOT / "examples" / "three.png", work)
    np.save(work / "images.npy", load_for_manifest(Bundle(MODEL).manifest).validation.pixels[:IMAGES].numpy())
    asked = {name: (str(path), count) for name, (path, count) in models.items()}
    (work / "models.json").write_text(json.dumps(asked))
    here = perform(work, begin(state, pictures[:5]), None)
    there = perform(work, go_on(state, pictures[5:7], cpu), space, cpu)
    ours, theirs = ({name: np.load(work / f"{name}-{on}.npy") for name in models} for on in (HERE, NAME))
    (work / "models.json").unlink()
    back = perform(work, come_back(state, pictures[7:9]), None)
    assert answered(here) + answered(there) + answered(back) == [CLASS] * 6
    compared = {
        "golden": golden_errors(there),
        "decisions": {name: decisions(theirs[name], ours[name]) for name in ours},
        "commands": list(dict.fromkeys(step["arguments"][0] for step in there)),
    }
    states = found.get("states", {}) | {state: {"on": [HERE, cpu, HERE], "updates": adopted(back, state)}}
    return {**found, HERE: {"golden": golden_errors(here)}, "states": states, cpu: compared}


def adopted(did: list[dict[str, Any]], state: str) -> int:
    """Updates of a state that were adopted, whichever version is current."""
    history = ["history", "--state", state, "--json"]
    lines = next(step["stdout"] for step in did if step["arguments"] == history).splitlines()
    return sum(row["kind"] == "update" and row["adopted"] for row in map(json.loads, lines))


def tests(space: UserSpace) -> dict[str, Any]:
    """The chosen tests of `ffruntime`, by the user space's Python in this checkout."""
    files = [f"tests/ffruntime/test_{name}.py" for name in TESTS]
    options = ["-q", "-p", "no:cacheprovider", "-m", "not slow"]
    done = space.run(["-m", "pytest", *options, *files], PROCESSORS[0], cwd=ROOT)
    print(done.stdout[-3000:], done.stderr[-1000:])
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", done.stdout)}
    return {"processor": PROCESSORS[0], "files": [Path(file).name for file in files], **counts}


# ---------------------------------------- with as little as a device has ----------------------------------------

ROOT_OF_ITS_OWN = """
mount -t tmpfs -o mode=755 tmpfs "$NEW"
cd "$NEW"
mkdir -p dev proc tmp etc usr opt/site opt/ffedge var/lib/ffedge
ln -s usr/bin usr/lib usr/sbin .
cp "$QEMU" opt/qemu
for name in null zero urandom; do touch dev/$name; mount --bind /dev/$name dev/$name; done
mount --bind "$SPACE/root/usr" usr; mount -o remount,bind,ro usr
mount --bind "$SPACE/site" opt/site; mount -o remount,bind,ro opt/site
mount --bind "$CHECKOUT" opt/ffedge; mount -o remount,bind,ro opt/ffedge
mount --bind "$WORK" var/lib/ffedge
mount -t tmpfs -o size=$TEMPORARY,mode=1777 tmpfs tmp
mount -t proc proc proc
mount -o remount,ro "$NEW"
if touch "$NEW/refused" 2> /dev/null || touch "$NEW/opt/site/refused" 2> /dev/null; then exit 1; fi
exec taskset -c 0 chroot --userspec=65534:65534 "$NEW" /opt/qemu "/usr/bin/python$PYTHON" \
    /opt/ffedge/benchmarks/aarch64_inside.py /var/lib/ffedge
"""


def slim(space: UserSpace, work: Path) -> dict[str, Any]:
    """The commands where Debian's packages and the wheels are alone, and only a state can be written."""
    pictures = letters(work)
    shutil.copy(ROOT / "examples" / "three.png", work)
    steps = [
        ["verify"],
        ["classify", "three.png"],
        ["learn", "--state", "state", "--label", CLASS, "--yes", *pictures[:5]],
        answer("state"),
        ["history", "--state", "state"],
    ]
    (work / "steps.json").write_text(json.dumps(steps))
    work.chmod(0o777)
    with tempfile.TemporaryDirectory() as new:
        environment = {
            "PATH": os.environ["PATH"],
            "NEW": new,
            "SPACE": str(space.folder),
            "CHECKOUT": str(ROOT),
            "WORK": str(work),
            "QEMU": str(space.folder / QEMU),
            "QEMU_CPU": PROCESSORS[0],
            "PYTHON": PYTHON,
            "PYTHONPATH": "/opt/site",
            "TEMPORARY": TEMPORARY,
        }
        command = ["unshare", "--mount", "--pid", "--fork", "sh", "-eu", "-c", ROOT_OF_ITS_OWN]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"slim: {done.stderr[-2000:]}")
    did = json.loads((work / "did.json").read_text())
    print("\n".join(f"slim: {' '.join(step['arguments'])}: {step['exit']} {step['stderr']}" for step in did))
    assert answered(did) == [CLASS]
    return {"processor": PROCESSORS[0], "commands": [[step["arguments"][0], step["exit"]] for step in did]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", type=Path, default=user_space.default_folder(), metavar="FOLDER")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--model", type=Path, metavar="BUNDLE", help="of this one, too, decisions on fewer images")
    o = parser.parse_args()
    space = user_space.found(o.space) or sys.exit(f"python benchmarks/user_space.py {o.space} sets it up")
    models = {"shipped": (MODEL, IMAGES)}
    if o.model:
        models[Bundle(o.model).manifest.training.recipe_name] = (o.model.resolve(), FEW)
    result = {name: part for name, part in recorded(NAME).items() if name != "machine"}
    result["versions"] = {name: space.versions[name] for name in TOLD}
    for part in o.only:
        with tempfile.TemporaryDirectory() as scratch:
            work = Path(scratch)
            if part in PROCESSORS:
                result["processors"] = emulated(part, space, models, result.get("processors", {}), work)
            else:
                result[part] = tests(space) if part == "tests" else slim(space, work)
        record(NAME, result)


if __name__ == "__main__":
    main()
