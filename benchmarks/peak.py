"""One process, its highest point in memory beside what the planner says: what `memory.py` and a test start afresh.

    python benchmarks/peak.py BUNDLE goodness|classifier|shortlist|exit BATCH LABELS
    python benchmarks/peak.py BUNDLE update BATCH LABELS MICRO_BATCH

Prints two numbers, planned and measured bytes. As where a command keeps to `--memory`, the engine's arena is off
and freed blocks go back; what the command imports and does besides, reading a picture, is part of it. An update is
whole, from storing an example to reading the version that was made of it, and there are two: one begins the state,
the other goes on from there.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

import numpy as np

from ffruntime import cli
from ffruntime.core.manifest import MODES
from ffruntime.core.memory import Memory, inference_memory
from ffruntime.core.plan import MIB
from ffruntime.measure import peak_mib
from ffruntime.model import Model
from ffruntime.session import Session, limited

CALLS = 3
UPDATES = 2
PICTURE = Path(__file__).parents[1] / "examples" / "three.png"


def classify(model: Model, kind: str) -> Memory:
    """Some calls of a mode's graphs; what the planner says of them."""
    network, batch, labels = model.manifest.network, model.session.batch, model.session.labels_per_call
    images = np.zeros((batch, *network.image.shape), np.float32)
    for _ in range(CALLS):
        if kind == "exit":  # a network that has not trained is sure of nothing: every unit runs
            model.scores(np.zeros(images.shape, np.uint8), kind)
        if kind in ("classifier", "shortlist"):
            model.graph("classifier")({"images": images})
        if kind in ("goodness", "shortlist"):
            model.graph("goodness")({"images": images, "labels": np.arange(labels)})
    chosen = next(known for known in MODES if known == kind)
    return inference_memory(network, model.precision, batch, labels, chosen)


def learn(model: Model, micro_batch: int, state: Path) -> Memory:
    """Some updates of few steps, judged by as many images as one call takes; what the planner says of them."""
    from ffruntime.core.memory import update_memory
    from ffruntime.learning.learner import Learner
    from ffruntime.learning.step import Settings

    image, settings = model.read(str(PICTURE)), Settings(steps=2, head_steps=2, micro_batch=micro_batch)
    with contextlib.closing(Learner(model, state, settings, tolerance=1.0, frozen=False)) as learner:
        learner._held_back = learner._held_back.take(slice(model.session.batch))
        for _ in range(UPDATES):
            (outcome,) = learner.updates([(image[None], ["3"])], now=True)
            assert outcome.adopted
    return update_memory(model.manifest.network, micro_batch, model.session.batch, model.session.labels_per_call)


def main() -> None:
    path, kind, batch, labels, *micro_batch = sys.argv[1:]
    assert cli.cli.commands  # they are imported
    model = Model(path, session=Session(threads=1), state=False)
    model.read(str(PICTURE))
    model = model.with_session(limited(model.session, int(batch), int(labels), threads=1))
    if kind == "update":
        with tempfile.TemporaryDirectory() as folder:
            planned = learn(model, int(micro_batch[0]), Path(folder))
    else:
        planned = classify(model, kind)
    peak = peak_mib()
    assert peak is not None, "this system does not tell a process's peak"
    print(planned.total, round(peak * MIB))


if __name__ == "__main__":
    main()
