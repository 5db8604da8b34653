"""An example of a class never seen, learned at once by class statistics, durably, in a process that runs.

    python benchmarks/at_once.py [model.ff]

Taking turns, on validation images of MNIST, with one thread: an image is classified; another one is learned, then
one classified; and one is classified, learned, and one classified, as where a person says that the answer is wrong:
the pass of that answer serves for the example. Medians of time over those of classifying alone, the state on the
disk, and in memory (`/dev/shm`), where the same commits cost no wait for a medium. `sync` is a write of 4 kB with
`fdatasync` alone.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import record

from ffruntime.core.data import SPLIT, data_directory, read_idx_examples
from ffruntime.core.shipped import MODEL
from ffruntime.learning.learner import Learner
from ffruntime.model import Model
from ffruntime.session import Session

ROUNDS = 200
MEMORY = Path("/dev/shm")  # a file system in memory, on Linux
RATIOS = ("learn_then_classify", "classify_learn_classify")


def medians(model: Model, pictures: np.ndarray, place: str | None) -> dict[str, float]:
    """Seconds of each kind of work, the state in a folder of `place`; `pictures` uint8 (N, 1, H, W)."""
    times: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], object]) -> None:
        begin = time.perf_counter()
        work()
        times.setdefault(name, []).append(time.perf_counter() - begin)

    with tempfile.TemporaryDirectory(dir=place) as folder, (Path(folder) / "sync").open("wb") as file:
        learner = Learner(model, Path(folder) / "state")

        def sync() -> None:
            file.write(bytes(4096))
            file.flush()
            os.fdatasync(file.fileno())

        for count in range(ROUNDS + 1):
            first, second, third = (pictures[3 * count + k] for k in range(3))

            def taught() -> None:
                learner.learn(second[None], ["new"])  # noqa: B023  called in this round
                learner.model.classify(first)  # noqa: B023

            def corrected() -> None:
                learner.model.classify(third)  # noqa: B023
                learner.learn(third[None], ["new"])  # noqa: B023
                learner.model.classify(first)  # noqa: B023

            timed("classify", lambda: learner.model.classify(first))  # noqa: B023
            timed("learn_then_classify", taught)
            timed("classify_learn_classify", corrected)
            timed("sync", sync)
            if not count:
                times.clear()  # the first round loads graphs and solves
        learner.close()
    return {name: statistics.median(some) for name, some in times.items()}


def main() -> None:
    path = sys.argv[1] if len(sys.argv) > 1 else MODEL
    raw = data_directory(None) / "MNIST" / "raw"
    pictures = read_idx_examples(raw, "train")
    pictures = pictures.take(SPLIT.places(len(pictures.labels))[1])
    model = Model(path, session=Session(threads=1), state=False)
    places = {"on_disk": None} | ({"in_memory": str(MEMORY)} if MEMORY.is_dir() else {})
    found = {name: medians(model, pictures.pixels, place) for name, place in places.items()}
    record(
        "at_once",
        {
            "dimension": model.manifest.statistics.dimension if model.manifest.statistics else None,
            "rounds": ROUNDS,
            "classify_ms": round(1000 * found["on_disk"]["classify"], 2),
            "sync_ms": round(1000 * found["on_disk"]["sync"], 2),
            **{
                f"{ratio}_over_classify": {
                    name: round(times[ratio] / times["classify"], 2) for name, times in found.items()
                }
                for ratio in RATIOS
            },
        },
    )


if __name__ == "__main__":
    main()
