"""One process, its highest point in memory beside what the planner says: what `memory.py` and a test start afresh.

    python benchmarks/peak.py BUNDLE goodness|classifier|shortlist BATCH LABELS
    python benchmarks/peak.py BUNDLE update MICRO_BATCH

Prints two numbers, planned and measured bytes. Neither torch nor onnx is there, and the engine's arena is off; what
the command imports and does besides, reading a picture, is part of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ffruntime import bundle, cli
from ffruntime.bench import peak_mib
from ffruntime.chunks import in_chunks
from ffruntime.learning.update import Settings, learned_names, learning_units, update_head, update_units
from ffruntime.model import Model
from ffruntime.plan import KINDS, MIB, Memory, inference_memory, update_memory

CALLS = 3
PICTURE = Path(__file__).parents[1] / "examples" / "three.png"


def classify(model: Model, kind: str, batch: int, labels: int) -> Memory:
    """Some calls of a mode's graphs; what the planner says of them."""
    images = np.zeros((batch, *model.manifest.network.image.shape), np.float32)
    for _ in range(CALLS):
        if kind != "goodness":
            model.graph("classifier")({"images": images})
        if kind != "classifier":
            model.graph("goodness")({"images": images, "labels": np.arange(labels)})
    chosen = next(known for known in KINDS if known == kind)
    return inference_memory(model.manifest.network, model.precision, batch, labels, chosen)


def learn(model: Model, micro_batch: int) -> Memory:
    """Some steps of an update, of the units and of the classifier; what the planner says of them."""
    network, rng = model.manifest.network, np.random.default_rng(0)
    settings = Settings(steps=CALLS, head_steps=CALLS, micro_batch=micro_batch)
    images = rng.integers(0, 256, (settings.batch, *network.image.shape), np.uint8)
    labels = rng.integers(0, len(model.classes), settings.batch)
    units = learning_units(network, model.manifest.files)
    names = learned_names(network, units)
    weights = bundle.read_weights(model.path, model.manifest)
    weights |= {name: weights[name].copy() for name in names}

    classify(model, "goodness", 1, 1)  # as the shipped weights are judged

    def classifier(model: Model, output: str, images: np.ndarray) -> np.ndarray:
        return in_chunks(model.graph("classifier"), micro_batch, 1)({"images": images})[output]

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        return images[:count], labels[:count]

    def scores(images: np.ndarray) -> np.ndarray:
        return classifier(model, "logits", images)

    recipe = model.manifest.training.recipe
    update_units(network, model.graph, units, weights, draw, scores, settings, recipe, rng)
    deeper = model.relearned({name: weights[name] for name in names if not name.startswith("head.")})
    update_head(model.graph, lambda x: classifier(deeper, "features", x), weights, draw, settings, recipe, rng)
    return update_memory(network, micro_batch)


def main() -> None:
    path, kind, *sizes = sys.argv[1:]
    assert cli.cli.commands  # they are imported
    model = Model(path, threads=1, arena=False, state=False)
    model.read(str(PICTURE))
    if kind == "update":
        planned = learn(model, int(sizes[0]))
    else:
        planned = classify(model, kind, int(sizes[0]), int(sizes[1]))
    peak = peak_mib()
    assert peak is not None, "this system does not tell a process's peak"
    print(planned.total, round(peak * MIB))


if __name__ == "__main__":
    main()
