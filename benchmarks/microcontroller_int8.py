"""A network in C in int8, beside float32: what a pass takes on an emulated Cortex-M4F, and what answers are worth.

    python benchmarks/microcontroller_int8.py [--test] [--no-accuracy] [--nine nine.ff] micro.ff

Instructions are exact (QEMU's `-icount`), and are not cycles. Accuracy is that of the C code on this machine, on
MNIST's validation images; with `--test` on the test images, too, which is done once, after all choices.
`--nine` is a network that was trained without a digit: it learns it from 20 examples, each beside two exemplars, by
float32 units and readouts above int8 units, and all in float32. With `--no-accuracy` it stays as it was recorded.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import record, recorded
from microcontroller import FAST, MORE, code, right, run, said, validation

from ffexport.c.arena import Part
from ffexport.c.footprint import footprint
from ffexport.c.project import FOLDER, export_c
from ffruntime.core.bundle import Bundle
from ffruntime.core.data import IDX_FOLDERS, Examples, data_directory, read_idx_examples
from ffruntime.core.precision import Precision

from chip import Chip  # isort: skip  # found by what `microcontroller` says

NAME = "microcontroller_int8"
KINDS: tuple[tuple[str, Part, Precision], ...] = (
    ("fp32", "readouts", "fp32"),
    ("int8", "readouts", "int8"),
    ("fp32 last", "last", "fp32"),
    ("int8 last", "last", "int8"),
)
EXAMPLES, PASSES, SHOWN = 20, 4, 1000  # of a new digit; times they are learned from; validation images each


def on_the_core(bundle: Bundle, folder: Path, precision: Precision) -> dict[str, int]:
    """What a pass takes on an M4, by a program that only classifies."""
    model = folder / precision
    shutil.copytree(bundle.path, model)
    export_c(model, precision, most="readouts")
    program = model / FOLDER / "examples" / "qemu"
    (program / "classify.bin").write_bytes(bundle.exemplars().pixels[:3].tobytes())
    found = said(run(["make", "-B", "run", f"MORE={MORE} -DFF_CLASSIFY_ONLY", "RAM=48K"], program))
    return found | code(program, "classifying")


def a_new_digit(bundle: Bundle, folder: Path) -> dict[str, Any]:
    """Share of right answers of a digit that the network was trained without, and of the others, after learning."""
    directory = data_directory(None) / IDX_FOLDERS[bundle.manifest.training.data.name]
    whole, others = read_idx_examples(directory, "train"), validation(bundle).take(slice(SHOWN))
    missing = next(label for label in range(10) if str(label) not in bundle.manifest.classes)
    images, exemplars = whole.pixels[whole.labels == missing], bundle.exemplars()
    new = Examples(images[EXAMPLES : EXAMPLES + SHOWN], np.full(SHOWN, len(bundle.manifest.classes)))
    found = {}
    for name, part, precision in KINDS:
        with Chip.of(folder / f"nine {name}", bundle, part, precision, flags=FAST) as chip:
            before = right(chip, others)
            assert chip.new_class(str(missing)) == ("OK", len(bundle.manifest.classes))
            for turn in range(PASSES * EXAMPLES):
                for index in (2 * turn, 2 * turn + 1):
                    place = index * 7 % len(exemplars)
                    chip.learn(exemplars.pixels[place], int(exemplars.labels[place]))
                chip.learn(images[turn % EXAMPLES], len(bundle.manifest.classes))
            found[name] = {"before": before, "others": right(chip, others), "new": right(chip, new)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=Path("micro.ff"))
    parser.add_argument("--nine", type=Path)
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--no-accuracy", action="store_true")
    given = parser.parse_args()
    bundle, found = Bundle(given.model), recorded(NAME)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, part, precision in KINDS:
            whole = footprint(bundle.manifest, part, precision)
            arena = whole.arena
            row = {"classify": arena.classify_bytes, "learn": arena.learn_bytes, "weights": whole.weights}
            found.setdefault("kinds", {})[kind] = row | {"cmsis_nn": arena.cmsis_nn_bytes}
        found["core"] = {precision: on_the_core(bundle, folder, precision) for precision in ("fp32", "int8")}
        images = validation(bundle)
        for kind, part, precision in () if given.no_accuracy else KINDS:
            if precision == "int8" or part == "readouts":
                with Chip.of(folder / f"host {kind}", bundle, part, precision, flags=FAST) as chip:
                    found.setdefault("validation", {})[kind] = right(chip, images)
        if given.test:
            directory = data_directory(None) / IDX_FOLDERS[bundle.manifest.training.data.name]
            with Chip.of(folder / "test", bundle, "readouts", "int8", flags=FAST) as chip:
                found["test"] = right(chip, read_idx_examples(directory, "t10k"))
        if given.nine:
            found["new_digit"] = a_new_digit(Bundle(given.nine), folder)
    record(NAME, {key: value for key, value in found.items() if key != "machine"})


if __name__ == "__main__":
    main()
