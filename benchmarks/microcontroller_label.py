"""Recipe `micro` on MNIST and Fashion-MNIST, beside a network of the same channels with the label in its input.

    python benchmarks/microcontroller_label.py FOLDER

Trains what is not in FOLDER yet, as a user does: FOLDER/KIND-DATA-EPOCHS.ff. What has the label in its input is
exported, so that it has mode `shortlist`, and answers all validation images in it, and the test images once.
C takes class goodness alone, so what a pass with the label in the input would take is counted, not run:
multiply-accumulates, and the planner's arena beside the label's channels.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import record

from ffexport.c.arena import plan_arena
from ffruntime.core.architecture import class_goodness
from ffruntime.core.bundle import Bundle
from ffruntime.core.cost import goodness_macs
from ffruntime.core.data import Examples
from ffruntime.core.memory import learned_bytes
from ffruntime.model import Model
from fftrain.dataset import load_for_manifest

NAME = "microcontroller_label"
LABEL = "label"
KINDS = {
    "micro": ["--recipe", "micro"],
    LABEL: [  # recipe `cpu` with the channels of `micro`
        *("--recipe", "cpu", "--set", "network.units.0.ops.0.out=16", "--set", "network.units.1.ops.0.out=32"),
        *("--set", 'network.units.2.inputs=[{normalise="batch"}]', "--set"),
        'network.units.2.ops=[{op="conv",out=64,kernel=3,padding=1},{op="max_pool"},{op="relu"}]',
    ],
}
ROWS = [("micro", "mnist", 20), ("micro", "fashion-mnist", 8)]
ROWS += [(kind, data, 1) for data in ("mnist", "fashion-mnist") for kind in KINDS]  # one pass over the images each


def trained(folder: Path, kind: str, data: str, epochs: int) -> Path:
    """The bundle of a row."""
    path = folder / f"{kind}-{data}-{epochs}.ff"
    if not path.exists():
        options = [data, *KINDS[kind], "--epochs", str(epochs), "--threads", "1", "--precision", "fp32"]
        subprocess.run([sys.executable, "-m", "fftrain", *options, "--out", str(path)], check=True)
    if kind == LABEL and Bundle(path).manifest.shortlist is None:
        subprocess.run([sys.executable, "-m", "ffexport", "--model", str(path)], check=True)
    return path


def shortlisted(path: Path) -> dict[str, Any]:
    """Right answers in mode `shortlist`, and passes of an image, on average and at most."""
    model, dataset = Model(path, state=False), load_for_manifest(Bundle(path).manifest)
    found, counts = dict[str, Any](), list[np.ndarray]()
    for name, images in (("validation", dataset.validation), ("test", dataset.test)):
        found[name], passes = _right(model, images)
        counts.append(passes)
    passes = np.concatenate(counts)
    return found | {"passes": float(passes.mean()), "most_passes": int(passes.max())}


def _right(model: Model, images: Examples) -> tuple[float, np.ndarray]:
    scores, passes = model.scores_and_passes(images.pixels.numpy(), "shortlist")
    return float(np.mean(scores.argmax(1) == images.labels.numpy())), passes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = list[dict[str, Any]]()
    for kind, data, epochs in ROWS:
        path = trained(folder, kind, data, epochs)
        manifest = Bundle(path).manifest
        network = manifest.network
        macs, arena = goodness_macs(network, 1), plan_arena(manifest, "all", "fp32").classify_bytes
        if not class_goodness(network):
            arena += 4 * network.label.channels * network.image.shape[1] * network.image.shape[2]
        row = {
            "kind": kind,
            "data": data,
            "epochs": epochs,
            "accuracy": manifest.accuracy,
            "macs_of_a_pass": macs,
            "arena_of_a_pass": arena,
            "learned": learned_bytes(network),
        }
        rows.append(row | ({"shortlist": shortlisted(path)} if kind == LABEL else {}))
        record(NAME, {"rows": rows})


if __name__ == "__main__":
    main()
