"""An example of a class never seen, learned at once by class statistics, durably, in a process that runs.

    python benchmarks/at_once.py [model.ff]

Taking turns, on validation images of MNIST, with one thread: an image is classified; another one is learned, then
one classified; and one is classified, learned, and one classified, as where a person says that the answer is wrong:
the pass of that answer serves for the example. Of every turn the time over that of classifying alone in the same
turn, and the median of these ratios, by the clock and by the processor time of the process: the clock counts other
programs, too, and waiting for the medium. The state lies on the disk, and in memory (`/dev/shm`), where the same
commits cost no wait. `sync` is a write of 4 kB with `fdatasync` alone.
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

ROUNDS = 500
MEMORY = Path("/dev/shm")  # a file system in memory, on Linux
RATIOS = ("learn_then_classify", "classify_learn_classify")


Times = dict[str, list[tuple[float, float]]]  # of each kind of work, turn by turn: by the clock, by the processor


def measured(model: Model, pictures: np.ndarray, place: str | None) -> Times:
    """Seconds of each kind of work, the state in a folder of `place`; `pictures` uint8 (N, 1, H, W)."""
    times: Times = {}

    def timed(name: str, work: Callable[[], object]) -> None:
        processor, clock = time.process_time(), time.perf_counter()
        work()
        times.setdefault(name, []).append((time.perf_counter() - clock, time.process_time() - processor))

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
    return times


def median(times: Times, name: str, which: int = 0) -> float:
    """Milliseconds of a kind of work, by the clock (0) or by the processor (1)."""
    return round(1000 * statistics.median(some[which] for some in times[name]), 2)


def over(times: Times, name: str, which: int) -> float:
    """A kind of work over classifying alone in the same turn: the median over the turns."""
    pairs = zip(times[name], times["classify"], strict=True)
    return round(statistics.median(some[which] / alone[which] for some, alone in pairs), 2)


def main() -> None:
    path = sys.argv[1] if len(sys.argv) > 1 else MODEL
    raw = data_directory(None) / "MNIST" / "raw"
    pictures = read_idx_examples(raw, "train")
    pictures = pictures.take(SPLIT.places(len(pictures.labels))[1])
    model = Model(path, session=Session(threads=1), state=False)
    places = {"on_disk": None} | ({"in_memory": str(MEMORY)} if MEMORY.is_dir() else {})
    load = os.getloadavg()[0]
    found = {name: measured(model, pictures.pixels, place) for name, place in places.items()}
    record(
        "at_once",
        {
            "dimension": model.manifest.statistics.dimension if model.manifest.statistics else None,
            "rounds": ROUNDS,
            "load": [round(load, 1), round(os.getloadavg()[0], 1)],  # of the machine, before and after
            "classify_ms": median(found["on_disk"], "classify"),
            "classify_processor_ms": median(found["on_disk"], "classify", 1),
            "sync_ms": median(found["on_disk"], "sync"),
            "sync_over_classify": over(found["on_disk"], "sync", 0),
            **{
                f"{ratio}_over_classify": {
                    f"{name}{suffix}": over(times, ratio, which)
                    for name, times in found.items()
                    for which, suffix in enumerate(("", "_processor"))
                }
                for ratio in RATIOS
            },
        },
    )


if __name__ == "__main__":
    main()
