"""Energy meters: RAPL counters, NVML, the INA3221 sensors of a Jetson.

Each kind gives its meters or, in a sentence, why there are none. Formats as the kernel documents them
(Documentation/power/powercap/powercap.rst, Documentation/hwmon/ina3221.rst) and as NVML's reference does; tested on
trees of such files, and not yet executed on hardware that has them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias, TypeVar

from msgspec import Struct

SYS = Path("/sys")
PERIOD = 0.05  # seconds between two readings of a sensor that knows only power

Stop: TypeAlias = Callable[[], float]  # joules since the start
T = TypeVar("T")


class Meter(Struct, frozen=True):
    """Counts what one part of the machine takes, whoever uses it, idle power included."""

    name: str
    start: Callable[[], Stop]


def find_meters(gpu: bool, root: Path = SYS) -> tuple[list[Meter], list[str]]:
    """The meters of this machine, no two of which count the same, and why there are no others.

    A Jetson's sensors measure the whole module, and then count alone; `gpu`: whether NVIDIA's GPUs do.
    """
    module = ina3221(root)
    if not isinstance(module, str):
        return module, []
    kinds = [module, rapl(root), *([nvml()] if gpu else [])]
    meters = [meter for kind in kinds if not isinstance(kind, str) for meter in kind]
    return meters, [kind for kind in kinds if isinstance(kind, str)]


def measured(meters: Sequence[Meter], action: Callable[[], T]) -> tuple[T, float | None]:
    """What the action returns, and the joules that all meters counted meanwhile; None without a meter."""
    stops = [meter.start() for meter in meters]
    result = action()
    joules = [stop() for stop in stops]
    return result, sum(joules) if joules else None


def rapl(root: Path = SYS) -> list[Meter] | str:
    """A meter for every processor package and its DRAM (of Intel, and of AMD since Zen)."""
    zones = [z for z in sorted((root / "class/powercap").glob("intel-rapl:*")) if _counts(z)]
    if not zones:
        return "RAPL: no counters in /sys/class/powercap, as in most virtual machines"
    try:
        for zone in zones:
            _number(zone / "energy_uj")
    except PermissionError:
        return f"RAPL: only root may read {zones[0]}/energy_uj: run this with sudo, or chmod a+r it"
    except OSError as error:
        return f"RAPL: {error.filename}: {error.strerror}"
    return [Meter(f"RAPL {_text(zone / 'name')}", _counter(zone)) for zone in zones]


def _counts(zone: Path) -> bool:
    """Whether no other zone counts the same: psys holds the packages, a package its cores and its GPU."""
    return _text(zone / "name").startswith(("package", "dram"))


def _counter(zone: Path) -> Callable[[], Stop]:
    """Starts a RAPL counter, in microjoules, which begins anew after `max_energy_range_uj`: once at most."""

    def start() -> Stop:
        before, span = _number(zone / "energy_uj"), _number(zone / "max_energy_range_uj")
        return lambda: (_number(zone / "energy_uj") - before) % span / 1e6

    return start


def nvml() -> list[Meter] | str:
    """A meter for every NVIDIA GPU since Volta: millijoules since the driver was loaded."""
    try:
        import pynvml
    except ImportError:
        return "NVML: pip install nvidia-ml-py"
    try:
        pynvml.nvmlInit()
        gpus = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]

        def joules(gpu: object) -> float:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu)) / 1e3

        def meter(gpu: object) -> Meter:
            def start() -> Stop:
                before = joules(gpu)
                return lambda: joules(gpu) - before

            joules(gpu)  # whether it can be read
            name = pynvml.nvmlDeviceGetName(gpu)
            return Meter(f"NVML {name}", start)

        return [meter(gpu) for gpu in gpus] or "NVML: no GPU"
    except pynvml.NVMLError as error:
        return f"NVML: {error}"


def ina3221(root: Path = SYS) -> list[Meter] | str:
    """One meter for a Jetson: the rail that feeds the module, or all rails where no such one is measured."""
    rails: dict[str, tuple[Path, int]] = {}
    for sensor in sorted((root / "class/hwmon").glob("hwmon*")):
        if _text(sensor / "name") == "ina3221":
            labels = {_text(sensor / f"in{n}_label"): (sensor, n) for n in (1, 2, 3)}
            rails |= {label: place for label, place in labels.items() if label not in ("", "NC")}
    if not rails:
        return "INA3221: no such sensor in /sys/class/hwmon: no Jetson"
    whole = [label for label in rails if label in ("VIN", "VDD_IN") or label.endswith("5V_IN")]
    names = whole[:1] or sorted(rails)
    chosen = [rails[name] for name in names]

    def watts() -> float:
        """Millivolts × milliamperes of each rail."""
        return sum(_number(s / f"in{n}_input") * _number(s / f"curr{n}_input") for s, n in chosen) / 1e6

    try:
        watts()
    except OSError as error:
        return f"INA3221: {error.filename}: {error.strerror}"
    return [Meter(f"INA3221 {' + '.join(names)}", lambda: _integral(watts))]


def _integral(watts: Callable[[], float]) -> Stop:
    """Read power in a thread of its own until it is stopped; then its integral, by trapezoids."""
    samples, done = [(time.perf_counter(), watts())], threading.Event()

    def sample() -> None:
        while not done.wait(PERIOD):
            samples.append((time.perf_counter(), watts()))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()

    def stop() -> float:
        done.set()
        thread.join()
        samples.append((time.perf_counter(), watts()))
        return sum((later - earlier) * (p + q) / 2 for (earlier, p), (later, q) in pairwise(samples))

    return stop


def _number(file: Path) -> int:
    return int(file.read_text())


def _text(file: Path) -> str:
    """Contents of a small file; empty where it cannot be read."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
