"""Accuracy of fp32, fp16 and int8 on all validation images of a trained bundle, in ONNX Runtime.

    python benchmarks/precision.py [cpu.ff]

The bundle needs the graphs: `ffexport --precision fp16 --precision int8`. Losses are in points of accuracy.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from common import record

from ffruntime.core.bundle import Bundle
from ffruntime.core.precision import PRECISIONS, in_folder
from ffruntime.model import Model
from ffruntime.session import Session
from fftrain.dataset import load_for_manifest


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "cpu.ff")
    manifest = Bundle(path).manifest
    validation = load_for_manifest(manifest).validation
    pixels, labels = validation.pixels.numpy(), validation.labels.numpy()
    rows = {}
    for mode in manifest.modes:
        answers = {p: Model(path, session=Session(precision=p)).scores(pixels, mode).argmax(1) for p in PRECISIONS}
        reference = float(np.mean(answers["fp32"] == labels))
        rows[mode] = {
            precision: {
                "accuracy": float(np.mean(answer == labels)),
                "loss_points": round(100 * (reference - float(np.mean(answer == labels))), 3),
                "as_fp32": int((answer == answers["fp32"]).sum()),
                "weights_bytes": manifest.files[in_folder("weights.safetensors", precision)].size,
            }
            for precision, answer in answers.items()
        }
    record("precision", {"recipe": manifest.training.recipe_name, "images": len(labels), "modes": rows})


if __name__ == "__main__":
    main()
