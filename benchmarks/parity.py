"""Goodness decisions of ONNX Runtime and of PyTorch (both fp32) on all validation images.

    python benchmarks/parity.py [model.ff]

A decision that differs is a tie where PyTorch's two scores are within 1e-5 of each other, relatively.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from common import record

from ffruntime.core.bundle import Bundle
from ffruntime.model import Model
from fftrain.dataset import load_for_manifest
from fftrain.evaluation import goodness_scores

TIE = 1e-5


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "model.ff")
    bundle = Bundle(path)
    manifest = bundle.manifest
    dataset = load_for_manifest(manifest)
    tensors = {name: torch.from_numpy(t) for name, t in bundle.weights().items()}
    pixels, labels = dataset.validation.pixels, dataset.validation.labels.numpy()
    theirs = goodness_scores(manifest.network, tensors, pixels, len(manifest.classes)).numpy()
    ours = Model(path).scores(pixels.numpy())
    differ = np.flatnonzero(ours.argmax(1) != theirs.argmax(1))
    gap = theirs[differ].max(1) - theirs[differ, ours[differ].argmax(1)]
    ties = int((gap <= TIE * np.abs(theirs[differ]).max(1)).sum()) if len(differ) else 0
    record(
        "parity",
        {
            "recipe": manifest.training.recipe_name,
            "images": len(labels),
            "equal_decisions": len(labels) - len(differ),
            "ties": ties,
            "other_differences": len(differ) - ties,
            "largest_score_difference": float(np.abs(ours - theirs).max()),
            "accuracy_onnxruntime": float((ours.argmax(1) == labels).mean()),
            "accuracy_torch": float((theirs.argmax(1) == labels).mean()),
        },
    )


if __name__ == "__main__":
    main()
