"""Makes `tests/fixtures/shapes.ff` or, with class goodness, `classes.ff`: a small network trained on pictures drawn
by `pictures.py`, and exported.

    python tests/support/make_fixture.py classes --replace     half a minute; other weights on another machine

Run it only where the bundle has to be another one: tests and recorded output belong to the committed one. Whether
the margins are wide is printed last; `MARGIN` is the least that is accepted.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pictures

TESTS = Path(__file__).parents[1]
NAMES = ("shapes", "classes")  # of recipes in `tests/`, and of bundles in `tests/fixtures/`
COUNTS = {"train": 20, "val": 40, "test": 40}  # of each class
FRESH = range(30_000, 30_100)  # seeds of pictures for the margins: in no part of the data set
FOLDER = Path(tempfile.gettempdir()) / "ffedge-fixture"  # a fixed name: the manifest records it
MARGIN = 0.1  # between the best and the second-best score; backends differ by 1e-5


def make(name: str, folder: Path) -> Path:
    """The bundle, made in `folder` by the commands as a user types them."""
    pictures.write_folder(folder / "shapes", COUNTS)
    shutil.copy(TESTS / f"{name}.toml", folder)
    training = (
        f"fftrain folder shapes --recipe {name}.toml --out {name}.ff --precision fp32 --device cpu --threads 1"
    )
    export = f"ffexport --model {name}.ff --precision fp16 --precision int8"
    for command in (training, export):
        program, *arguments = command.split()
        subprocess.run([sys.executable, "-m", program, *arguments], cwd=folder, check=True)
    return folder / f"{name}.ff"


def margins(bundle: Path) -> dict[tuple[str, str], float]:
    """By precision and mode, the least margin by which a fresh picture is told rightly; below 0, one is not."""
    from ffruntime import Model, Session

    found = {}
    for precision in ("fp32", "fp16", "int8"):
        model = Model(bundle, session=Session(precision=precision), state=False)
        for mode in model.modes():
            least = np.inf
            for label, name in enumerate(pictures.CLASSES):
                images = np.stack([pictures.draw(name, seed)[None] for seed in FRESH])
                scores = model.scores(images, mode)
                others = np.delete(scores, label, axis=1).max(1)
                least = min(least, float((scores[:, label] - others).min()))
            found[precision, mode] = least
    return found


def main() -> None:
    """Make the bundle that is asked for, and put it where the tests find it."""
    name, *options = sys.argv[1:] or ("",)
    if name not in NAMES:
        sys.exit(f"which one? {' or '.join(NAMES)}")
    target = TESTS / "fixtures" / f"{name}.ff"
    if target.exists() and options != ["--replace"]:
        sys.exit(f"{target}: is there; --replace makes another one, and what was recorded with it is void")
    FOLDER.mkdir()  # fails where it is there: nothing of somebody else's is used, or deleted
    try:
        bundle = make(name, FOLDER)
        found = margins(bundle)
        for (precision, mode), least in found.items():
            print(f"{precision} {mode}: least margin {least:.3f}")
        if min(found.values()) < MARGIN:
            sys.exit(f"a margin is below {MARGIN}: change tests/{name}.toml or pictures.py")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(bundle, target)
    finally:
        shutil.rmtree(FOLDER)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    print(f"{target}: {size:,} bytes")


if __name__ == "__main__":
    main()
