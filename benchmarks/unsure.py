"""How well a class-goodness network of MNIST knows what it does not know, through `ffruntime.Model`.

    python benchmarks/unsure.py TEN.ff NINE.ff

TEN.ff was trained on all digits, NINE.ff on 0 to 8 (`fftrain mnist --classes 0-8`). A bundle of a former run is
completed, in a copy, with the class statistics and the calibration that training would give it now. Shown are test
images of the digits that were taught, test images of Fashion-MNIST, uniform noise, the digit that was not taught,
and test images half of which is hidden. Everything was chosen on validation images; `benchmarks/README.md` has what
was tried on them.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import record

from ffruntime.core.bundle import Bundle
from ffruntime.core.calibration import UNSURE, probabilities, thresholds
from ffruntime.core.data import data_directory
from ffruntime.model import Model
from ffruntime.session import Session
from fftrain.calibration import expected_calibration_error, reliability
from fftrain.dataset import load_dataset, load_for_manifest
from fftrain.pack import completed

ACCEPTED = 0.05  # rate of false alarms of the comparison: 95 % of ordinary images are accepted
IMAGES = 2_000  # strange ones of a kind, and ordinary ones in mode `exit`
UNTAUGHT = 9


def prepared(path: Path, folder: Path) -> Path:
    """The bundle, or a completed copy in `folder` that is exported again."""
    bundle = Bundle(path)
    if bundle.manifest.calibration and bundle.manifest.calibration.units:
        return path
    copy = Bundle(Path(shutil.copytree(path, folder / path.name)))
    completed(copy, load_for_manifest(copy.manifest))
    subprocess.run([sys.executable, "-m", "ffexport", "--model", str(copy.path)], check=True, capture_output=True)
    return copy.path


def half_hidden(pixels: np.ndarray) -> np.ndarray:
    """Images uint8 (N, C, H, W), each with its upper, lower, left or right half black, in turn."""
    hidden = pixels.copy()
    rows, columns = pixels.shape[2] // 2, pixels.shape[3] // 2
    hidden[0::4, :, :rows] = 0
    hidden[1::4, :, rows:] = 0
    hidden[2::4, :, :, :columns] = 0
    hidden[3::4, :, :, columns:] = 0
    return hidden


def auroc(known: np.ndarray, strange: np.ndarray) -> float:
    """Chance that a known image is surer than a strange one, ties counting half: (N,), (M,)."""
    order = np.sort(strange)
    below, up_to = np.searchsorted(order, known, "left"), np.searchsorted(order, known, "right")
    return float((below + up_to).mean() / (2 * len(strange)))


def judged(model: Model, images: np.ndarray, mode: str) -> tuple[np.ndarray, ...]:
    """Of each image the answer's probability, its typicality (1 where there is none), whether it is unsure, and the
    scores of the classes."""
    answers = model.classify_batch(images, mode, unsure=ACCEPTED)
    typical = [1.0 if answer.typicality is None else answer.typicality for answer in answers]
    unsure = np.array([answer.sure is False for answer in answers])
    scores = np.array([[answer.scores[name] for name in model.classes] for answer in answers])
    return np.array([answer.probability for answer in answers]), np.array(typical), unsure, scores


def told_apart(model: Model, known: tuple[np.ndarray, ...], strange: tuple[np.ndarray, ...]) -> dict[str, Any]:
    """AUROC, and the share of strange images that is rejected where 95 % of the validation images are accepted: by
    probability, by typicality, and by both as `sure` says."""
    calibration = model.manifest.calibration
    assert calibration
    of = calibration.scores["goodness"]
    least, _ = thresholds(calibration, of, ACCEPTED, both=False)

    def both(some: tuple[np.ndarray, ...]) -> np.ndarray:
        """The least share of the validation images that are as improbable or as untypical."""
        shares = np.interp(some[0], (0.0, *of.probabilities), (0.0, *calibration.shares))
        return np.minimum(shares, some[1])

    return {
        "probability": {"auroc": auroc(known[0], strange[0]), "rejected": float((strange[0] < least).mean())},
        "typicality": {"auroc": auroc(known[1], strange[1]), "rejected": float((strange[1] < ACCEPTED).mean())},
        "both": {"auroc": auroc(both(known), both(strange)), "rejected": float(strange[2].mean())},
    }


def in_exit(model: Model, pixels: np.ndarray, shown: dict[str, np.ndarray]) -> dict[str, Any]:
    """The same in mode `exit`, by the unit that answers: what is unsure, and the AUROC of typicality."""
    known, strange = (
        judged(model, pixels, "exit"),
        {n: judged(model, images, "exit") for n, images in shown.items()},
    )
    return {
        "unsure": float(known[2].mean()),
        "rejected": {name: float(some[2].mean()) for name, some in strange.items()},
        "auroc": {name: auroc(known[1], some[1]) for name, some in strange.items()},
    }


def measured(path: Path, strange: dict[str, np.ndarray]) -> dict[str, Any]:
    """What a network says of the test images of its classes, and of strange ones."""
    model, test = (
        Model(path, session=Session(threads=1), state=False),
        load_for_manifest(Bundle(path).manifest).test,
    )
    calibration = model.manifest.calibration
    assert calibration
    pixels, labels = test.pixels.numpy(), test.labels.numpy()
    known = probable, typical, unsure, scores = judged(model, pixels, "goodness")
    right, of = scores.argmax(1) == labels, calibration.scores["goodness"]
    before = reliability(probabilities(scores, 1.0).max(1), right)
    least, least_typical = thresholds(calibration, of, UNSURE, both=True)
    sure = (probable >= least) & (typical >= least_typical)
    shown = {**strange, "half hidden": half_hidden(pixels[:IMAGES])}
    return {
        "classes": list(model.classes),
        "validation": {"images": calibration.images, "error_before": of.error_before, "error": of.error},
        "test": {
            "images": len(labels),
            "accuracy": float(right.mean()),
            "error_before": expected_calibration_error(before),
            "error": expected_calibration_error(reliability(probable, right)),
            "unsure": {str(UNSURE): float(1 - sure.mean()), str(ACCEPTED): float(unsure.mean())},
            "accuracy_of_sure": float(right[sure].mean()),
        },
        "strange": {
            name: {"images": len(images), **told_apart(model, known, judged(model, images, "goodness"))}
            for name, images in shown.items()
        },
        "exit": in_exit(model, pixels[:IMAGES], shown),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ten", type=Path)
    parser.add_argument("nine", type=Path)
    o = parser.parse_args()
    mnist, fashion = (load_dataset(name, data_directory(None)).test for name in ("mnist", "fashion-mnist"))
    noise = np.random.default_rng(0).integers(0, 256, (IMAGES, 1, 28, 28), dtype=np.uint8)
    strange = {"Fashion-MNIST": fashion.pixels[:IMAGES].numpy(), "uniform noise": noise}
    untaught = mnist.pixels[mnist.labels == UNTAUGHT].numpy()
    with tempfile.TemporaryDirectory() as folder:
        paths = [prepared(path, Path(folder)) for path in (o.ten, o.nine)]
        networks = [
            measured(paths[0], strange),
            measured(paths[1], {**strange, f"the digit {UNTAUGHT}, not taught": untaught}),
        ]
    record("unsure", {"accepted": 1 - ACCEPTED, "networks": networks})


if __name__ == "__main__":
    main()
