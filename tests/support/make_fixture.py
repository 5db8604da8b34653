"""Makes `tests/fixtures/shapes.ff`: a small network trained on pictures drawn by `pictures.py`, and exported.

    python tests/support/make_fixture.py --replace     half a minute; other weights come out on another machine

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
TARGET = TESTS / "fixtures" / "shapes.ff"
COUNTS = {"train": 20, "val": 40, "test": 40}  # of each class
FRESH = range(30_000, 30_100)  # seeds of pictures for the margins: in no part of the data set
MARGIN = 0.1  # between the best and the second-best score; backends differ by 1e-5


def make(folder: Path) -> Path:
    """The bundle, made in `folder` by the commands as a user types them."""
    pictures.write_folder(folder / "shapes", COUNTS)
    shutil.copy(TESTS / "shapes.toml", folder)
    training = "fftrain folder shapes --recipe shapes.toml --out shapes.ff --precision fp32 --device cpu --threads 1"
    export = "ffexport --model shapes.ff --precision fp16 --precision int8"
    for command in (training, export):
        program, *arguments = command.split()
        subprocess.run([sys.executable, "-m", program, *arguments], cwd=folder, check=True)
    return folder / "shapes.ff"


def margins(bundle: Path) -> dict[tuple[str, str], float]:
    """By precision and mode, the least margin by which a fresh picture is told rightly; negative for a wrong one."""
    from ffruntime import Model

    found = {}
    for precision in ("fp32", "fp16", "int8"):
        model = Model(str(bundle), precision=precision, state=False)
        for mode in ("goodness", "classifier", "shortlist"):
            least = np.inf
            for label, name in enumerate(pictures.CLASSES):
                images = np.stack([pictures.draw(name, seed)[None] for seed in FRESH])
                scores = model.scores(images, mode)
                others = np.delete(scores, label, axis=1).max(1)
                least = min(least, float((scores[:, label] - others).min()))
            found[precision, mode] = least
    return found


def main() -> None:
    """Make the bundle, and put it where the tests find it."""
    if TARGET.exists() and sys.argv[1:] != ["--replace"]:
        sys.exit(f"{TARGET}: is there; --replace makes another one, and what was recorded with it is void")
    with tempfile.TemporaryDirectory() as folder:
        bundle = make(Path(folder))
        found = margins(bundle)
        for (precision, mode), least in found.items():
            print(f"{precision} {mode}: least margin {least:.3f}")
        if min(found.values()) < MARGIN:
            sys.exit(f"a margin is below {MARGIN}: change tests/shapes.toml or pictures.py")
        shutil.rmtree(TARGET, ignore_errors=True)
        shutil.copytree(bundle, TARGET)
    size = sum(file.stat().st_size for file in TARGET.rglob("*") if file.is_file())
    print(f"{TARGET}: {size:,} bytes")


if __name__ == "__main__":
    main()
