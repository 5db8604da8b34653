"""How fast a model answers, and what memory and energy that takes. One process measures one mode: `measure`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from msgspec import Struct

from .core.manifest import Mode
from .core.plan import BATCH
from .energy import Meter, measured
from .model import Model

BATCHES = (1, 4, BATCH)  # images in one call
FEWEST = 3  # calls that are measured, whatever the time
STATUS = Path("/proc/self/status")


class Speed(Struct, frozen=True):
    """One mode, warm: engine and decision, without reading and preparing pictures."""

    mode: Mode
    images: int  # classified one at a time: what the median and p99 are of
    median_ms: float
    p99_ms: float
    images_per_second: dict[int, float]  # by images in one call
    peak_mib: dict[int, float | None]  # of the process and so far, by images in one call; None where it is not told
    joules_per_image: float | None  # one at a time; None without a meter
    meters: tuple[str, ...]


def measure(model: Model, mode: Mode, seconds: float, meters: Sequence[Meter]) -> Speed:
    """Measure a mode for so many seconds with each of `BATCHES`, on real images, a new one in every call."""
    images = model.bundle.some_images()
    latencies: list[float] = []
    speed, peak, joules = {}, {}, None

    def call(size: int, count: int) -> None:
        model.classify_batch(images[np.arange(count * size, (count + 1) * size) % len(images)], mode)

    for size in BATCHES:
        repeat(partial(call, size), seconds / 10)  # warm
        times, energy = measured(meters, partial(repeat, partial(call, size), seconds))
        if size == 1:
            latencies, joules = times, energy
        speed[size], peak[size] = size * len(times) / sum(times), peak_mib()
    return Speed(
        mode,
        len(latencies),
        float(np.median(latencies)) * 1e3,
        float(np.percentile(latencies, 99)) * 1e3,
        speed,
        peak,
        None if joules is None else joules / len(latencies),
        tuple(meter.name for meter in meters),
    )


def repeat(call: Callable[[int], None], seconds: float) -> list[float]:
    """Call with 0, 1, 2, …, until the time is over -> seconds of every call, at least `FEWEST`."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < FEWEST or time.perf_counter() < end:
        begun = time.perf_counter()
        call(len(times))
        times.append(time.perf_counter() - begun)
    return times


def peak_mib() -> float | None:
    """The most memory that this process has had resident; None where the system does not tell (Windows)."""
    if STATUS.exists():  # not ru_maxrss, which Linux lets a process inherit from the one that started it
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1 << 20 if sys.platform == "darwin" else 1 << 10)
