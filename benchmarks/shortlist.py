"""What mode `shortlist` costs and keeps of the accuracy, on all validation and all test images of a trained bundle.

    python benchmarks/shortlist.py [cpu.ff [NAME]]

The bundle needs a threshold, which `ffexport` finds on exemplars. Where it says what the classifier's logits weigh
in the totals, the shortlist is measured without them, too. A pass is one image with one label. NAME is that of the
results, by default `shortlist`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import record

from ffruntime import shortlist
from ffruntime.core.bundle import Bundle
from ffruntime.core.data import Examples
from ffruntime.core.manifest import Shortlist
from ffruntime.model import Model
from fftrain.dataset import load_for_manifest


def measure(model: Model, images: Examples) -> dict[str, Any]:
    """Each mode on the images; differences from goodness in points of accuracy."""
    pixels, labels = images.pixels.numpy(), images.labels.numpy()
    found = {mode: model.scores_and_passes(pixels, mode) for mode in ("goodness", "classifier", "shortlist")}
    if model.manifest.logit_weight and model.manifest.shortlist:
        total, logits = found["goodness"][0], found["classifier"][0]
        unsure = [index for index, name in enumerate(model.classes) if name in model.undertrained]
        found["shortlist, without logits"] = without_logits(total, logits, model.manifest.shortlist, unsure)
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


def without_logits(
    total: np.ndarray, logits: np.ndarray, calibrated: Shortlist, undertrained: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and passes of a shortlist by total goodness alone, from that of all labels and from the logits, both
    (N, classes)."""
    chosen = shortlist.in_play(logits, calibrated.threshold, undertrained)
    return shortlist.scores(logits, chosen, lambda rows, tried: total[rows][:, tried]), shortlist.passes(chosen)


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "cpu.ff")
    manifest = Bundle(path).manifest
    model, dataset = Model(path, state=False), load_for_manifest(manifest)
    calibrated = model.manifest.shortlist
    assert calibrated, f"{path} has no threshold: ffexport --model {path}"
    record(
        sys.argv[2] if len(sys.argv) > 2 else "shortlist",
        {
            "recipe": manifest.training.recipe_name,
            "steps": manifest.training.steps,
            "epochs": manifest.training.epochs,
            "seed": manifest.training.seed,
            "data": manifest.training.data.name,
            "threshold": calibrated.threshold,
            "logit_weight": manifest.logit_weight,
            "exemplars": {"mean_passes": calibrated.passes, "as_goodness": calibrated.agree},
            "worst_case_passes": 1 + len(manifest.classes),
            "validation": measure(model, dataset.validation),
            "test": measure(model, dataset.test),
        },
    )


if __name__ == "__main__":
    main()
