"""What a microcontroller learns, by the code that runs there, on this machine.

    python benchmarks/chip_learning.py --nine NINE.ff --untrained UNTRAINED.ff --divisive DIVISIVE.ff [--test]

NINE.ff was trained on nine digits (`fftrain mnist --recipe micro --classes 0-8`): the tenth is counted in closed
form by `ff_count`, some examples at a time, drawn from the validation images; all are told before and after.
UNTRAINED.ff was not trained at all (`--epochs 0`), and has seen no image: Split-MNIST, two digits at a time, in one
pass, of training images, with class statistics of no example to begin with and no image stored.
DIVISIVE.ff was not trained either, and has no batch statistics (`--epochs 0 --set
'network.units.*.inputs=[{normalise="divisive"}]'`): Split-MNIST by gradients, one image a step, with images stored
in flash and learned again beside every new one, and at rest. `--test` reads the test images, too.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import record, recorded
from microcontroller import FAST, Chip, right, validation
from msgspec import structs

from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.data import IDX_FOLDERS, Examples, data_directory, read_idx_examples
from ffruntime.core.gaussians import Shrinkage, Weight
from ffruntime.core.manifest import EXEMPLARS, GOLDEN, STATISTICS, WEIGHTS, ClassStatistics
from ffruntime.core.statistics import encode

NAME = "chip_learning"
SHOWN = (1, 5, 20, 80)  # examples of a digit never seen
DRAWS, OTHERS = 5, 900  # draws of these, and validation images of the other digits, the same for all
PER_TASK, TESTED = 4000, 4000  # training images of two digits, and validation images of all
DIMENSION = 128  # of the class statistics of untrained units
# Replay: images that are stored, in what flash, how many are learned beside a new one, moved by how many pixels;
# and of one image a step the learning rates, first beside new images, then at rest, with how many steps of each.
STORED, SECTOR, UNIT, BESIDE, SHIFT = 200, 4096, 4, 3, 1
RATE, REST, REST_STEPS = 0.04, (0.02, 0.01, 0.005), 1000
REPLAYED_PER_TASK = 1000
# Of no training set. Examples have a variance of some 500 along an axis by how they are made (`projection.py`).
HOW = ClassStatistics(
    DIMENSION, 0, shrinkage=Shrinkage(1.0, 500.0, 3.0), together=0, weights={"goodness": Weight(0.0, 1.0)}
)


def never_seen(bundle: Bundle, folder: Path) -> dict[str, Any]:
    """Right answers on a digit, and on the others, after some examples of it; mean and deviation over draws."""
    source, manifest = Examples(*_all_digits(bundle)), bundle.manifest
    new = len(manifest.classes)
    others = source.take(np.flatnonzero(source.labels < new)[:OTHERS])
    found: dict[str, list[list[float]]] = {"new": [], "others": []}
    with Chip.of(folder / "nine", bundle, "readouts", flags=FAST) as chip:
        before = right(chip, others)
        for draw in range(DRAWS):
            assert chip.begin(chip.arena.learn_bytes) == "OK"
            assert chip.new_class("never seen") == ("OK", new)
            rows = np.random.default_rng(draw).permutation(np.flatnonzero(source.labels == new))
            held, counted = source.take(rows[max(SHOWN) :][:300]), 0
            for part in found.values():
                part.append([])
            for shown in SHOWN:
                for row in rows[counted:shown]:
                    assert chip.count(source.pixels[row], new) == "OK"
                counted = shown
                found["new"][-1].append(right(chip, held))
                found["others"][-1].append(right(chip, others))
    told = {name: {"mean": np.mean(rows, 0).tolist(), "deviation": np.std(rows, 0).tolist()}
            for name, rows in found.items()}  # fmt: skip
    how = manifest.counted
    assert how
    return {"examples": list(SHOWN), "draws": DRAWS, "before": before, "dimension": how.dimension, **told}


def _all_digits(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """The validation images of the data set that a network on nine of its ten digits was trained on."""
    data = bundle.manifest.training.data
    whole = read_idx_examples(data_directory(None) / IDX_FOLDERS[data.name], "train")
    assert data.split
    some = whole.take(data.split.places(len(whole))[1])
    return some.pixels, some.labels


def split_digits(bundle: Bundle, folder: Path) -> dict[str, Any]:
    """Two digits after two, in one pass: right answers on all ten at the end."""
    manifest, files = bundle.manifest, {name: bundle.read(name) for name in (WEIGHTS, GOLDEN, EXEMPLARS)}
    files[STATISTICS] = encode(HOW.none(len(manifest.classes)), HOW.origin(bundle.units_hash))
    plain = structs.replace(manifest, statistics=HOW, calibration=None, exit=None, files={})
    counting = write_bundle(folder / "untrained.ff", plain, files)
    data = manifest.training.data
    whole = read_idx_examples(data_directory(None) / IDX_FOLDERS[data.name], "train")
    assert data.split
    learned, tested = whole.take(data.split.places(len(whole))[0]), validation(bundle).take(slice(TESTED))
    with Chip.of(folder / "split", counting, "readouts", flags=FAST) as chip:
        for task in range(5):
            rows = np.flatnonzero(learned.labels // 2 == task)[:PER_TASK]
            for row in rows:
                assert chip.count(learned.pixels[row], int(learned.labels[row])) == "OK"
        ram = chip.arena.learn_bytes
        return {
            "accuracy": right(chip, tested),
            "images": 5 * PER_TASK,
            "dimension": DIMENSION,
            "stored": 0,
            "ram": ram,
        }


def replayed_digits(bundle: Bundle, folder: Path, test: bool) -> dict[str, Any]:
    """Two digits after two by gradients, some images stored: right answers on all ten at the end."""
    manifest = bundle.manifest
    data, rows = manifest.training.data, manifest.network.label.patterns
    whole = read_idx_examples(data_directory(None) / IDX_FOLDERS[data.name], "train")
    assert data.split
    learned, image = whole.take(data.split.places(len(whole))[0]), math.prod(manifest.network.image.shape)
    with Chip.of(folder / "replayed", bundle, "all", flags=FAST) as chip:
        sectors = chip.new_replay(STORED, SHIFT, SECTOR, UNIT)
        chip.settings(RATE)
        for task in range(5):
            places = np.flatnonzero(learned.labels // 2 == task)
            for row in np.random.default_rng(task).permutation(places)[:REPLAYED_PER_TASK]:
                assert chip.learn_replayed(learned.pixels[row], int(learned.labels[row]), BESIDE) == "OK"
        for rate in REST:
            chip.settings(rate)
            assert chip.rehearse(REST_STEPS) == "OK"
        found = {
            "accuracy": right(chip, validation(bundle).take(slice(TESTED))),
            "images": 5 * REPLAYED_PER_TASK,
            "stored": STORED,
            "steps": chip.told()[0],
            "arena": chip.arena.learn_bytes,
            "replay_ram": STORED * 3 + 2 * image + rows * 4,
            "replay_flash": sectors * SECTOR,
        }
        if test:
            found["test"] = right(chip, read_idx_examples(data_directory(None) / IDX_FOLDERS[data.name], "t10k"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nine", type=Path)
    parser.add_argument("--untrained", type=Path)
    parser.add_argument("--divisive", type=Path)
    parser.add_argument("--test", action="store_true")
    given = parser.parse_args()
    found = {name: value for name, value in recorded(NAME).items() if name != "machine"}
    with tempfile.TemporaryDirectory() as name:
        if given.nine:
            found["never_seen"] = never_seen(Bundle(given.nine), Path(name))
            record(NAME, found)
        if given.untrained:
            found["split"] = split_digits(Bundle(given.untrained), Path(name))
            record(NAME, found)
        if given.divisive:
            found["replayed"] = replayed_digits(Bundle(given.divisive), Path(name), given.test)
            record(NAME, found)


if __name__ == "__main__":
    main()
