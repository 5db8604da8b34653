"""Processes that learn for ever, to be killed: `python learning_server.py MODEL` starts one for each line it reads.

A line is a JSON array: the state directory, a file for the ids that are acknowledged, a seed. The process's id is
printed when it runs, and an empty line when it has ended. Forking keeps what a start costs to milliseconds.

Where the model has class statistics, examples are forgotten, too: `?` and the id are written before, `-` and the id
when that is done.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TextIO

import numpy as np
import onnxruntime  # noqa: F401  (so that no process waits for it)

from ffruntime.core.bundle import CALIBRATION
from ffruntime.core.errors import StateError
from ffruntime.learning.learner import Learner
from ffruntime.learning.step import Settings
from ffruntime.learning.tables import JUDGING, LEARNED, PENDING, REFUSED
from ffruntime.model import Model
from ffruntime.session import Session

MORE = 20  # images beyond the bundle's own, so that evictions begin soon


def learn_for_ever(model: Model, state: Path, acknowledged: Path, seed: int) -> None:
    """Store some examples, say so, learn: mostly what is adopted, some that is refused; sometimes go back."""
    rng = np.random.default_rng(seed)
    examples = model.bundle.exemplars(CALIBRATION)
    images, labels = examples.pixels, examples.labels
    settings = Settings(steps=1, head_steps=1, batch=4)
    learner = Learner(model, state, settings, replay_bytes=(len(images) + MORE) * images[0].size)
    learner._held_back = learner._held_back.take(slice(4))  # or judging takes all the time
    with acknowledged.open("a") as said:
        while True:
            chosen = rng.integers(len(images), size=rng.integers(1, 9))
            names = [model.manifest.classes[labels[index]] if rng.random() < 0.9 else "new" for index in chosen]
            print(*learner.add(images[chosen], names), file=said, flush=True)
            if learner.counted and rng.random() < 0.5:
                forget_one(learner, rng, said)
            learner.tolerance = 1.0 if rng.random() < 0.8 else -2.0
            try:
                learner.update()
            except StateError:  # another process learns, too
                time.sleep(0.02)
                continue
            if rng.random() < 0.1:
                learner.store.retry()
            if rng.random() < 0.1:
                learner.store.rollback(0)


def forget_one(learner: Learner, rng: np.random.Generator, said: TextIO) -> None:
    """Take back one of the examples that are stored."""
    stored = [id for some in learner.store.ids(PENDING, LEARNED, REFUSED, JUDGING).values() for id in some]
    if stored:
        id = int(rng.choice(stored))
        print(f"?{id}", file=said, flush=True)
        learner.forget([id])
        print(f"-{id}", file=said, flush=True)


def main() -> None:
    model = Model(sys.argv[1], session=Session(threads=1), state=False)
    for line in sys.stdin:
        state, acknowledged, seed = json.loads(line)
        process = os.fork()
        if process == 0:
            learn_for_ever(model, Path(state), Path(acknowledged), seed)
        print(process, flush=True)
        os.waitpid(process, 0)
        print(flush=True)


if __name__ == "__main__":
    main()
