"""What mode `shortlist` costs and keeps of the accuracy, on all validation and all test images of a trained bundle.

    python benchmarks/shortlist.py [model.ff]

The bundle needs a threshold, which `ffexport` finds on exemplars. A pass is one image with one label.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import record

from ffruntime.core.bundle import Bundle
from ffruntime.core.data import Examples
from ffruntime.model import Model
from fftrain.dataset import load_for_manifest


def measure(model: Model, images: Examples) -> dict[str, Any]:
    """Each mode on the images; differences from goodness in points of accuracy."""
    pixels, labels = images.pixels.numpy(), images.labels.numpy()
    found = {mode: model.scores_and_passes(pixels, mode) for mode in ("goodness", "classifier", "shortlist")}
    goodness = found["goodness"][0].argmax(1)
    rows = {}
    for mode, (scores, passes) in found.items():
        answers = scores.argmax(1)
        rows[mode] = {
            "accuracy": float(np.mean(answers == labels)),
            "points_from_goodness": round(100 * float(np.mean(answers == labels) - np.mean(goodness == labels)), 3),
            "as_goodness": int((answers == goodness).sum()),
            "mean_passes": float(passes.mean()),
            "most_passes": int(passes.max()),
        }
    return {"images": len(labels), "modes": rows}


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "model.ff")
    manifest = Bundle(path).manifest
    model, dataset = Model(path, state=False), load_for_manifest(manifest)
    shortlist = model.manifest.shortlist
    assert shortlist, f"{path} has no threshold: ffexport --model {path}"
    record(
        "shortlist",
        {
            "recipe": manifest.training.recipe_name,
            "data": manifest.training.data.name,
            "threshold": shortlist.threshold,
            "exemplars": {"mean_passes": shortlist.passes, "as_goodness": shortlist.agree},
            "worst_case_passes": 1 + len(manifest.classes),
            "validation": measure(model, dataset.validation),
            "test": measure(model, dataset.test),
        },
    )


if __name__ == "__main__":
    main()
