"""Energy meters, on trees of files such as the kernel makes; no hardware that has them was at hand."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ffruntime import energy
from ffruntime.energy import find_meters, ina3221, measured, nvml, rapl


def write(root: Path, files: dict[str, object]) -> None:
    for name, value in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{value}\n")


def zone(root: Path, number: str, name: str, microjoules: int) -> Path:
    """A zone of RAPL, as in /sys/class/powercap/intel-rapl:0."""
    place = f"class/powercap/intel-rapl:{number}"
    write(
        root,
        {f"{place}/name": name, f"{place}/energy_uj": microjoules, f"{place}/max_energy_range_uj": 262143328850},
    )
    return root / place / "energy_uj"


def sensor(root: Path, number: int, rails: dict[str, tuple[int, int]], name: str = "ina3221") -> None:
    """A sensor with its rails, each in mV and mA, as in /sys/class/hwmon/hwmon1."""
    place = f"class/hwmon/hwmon{number}"
    write(root, {f"{place}/name": name})
    for n, (label, (millivolts, milliamperes)) in enumerate(rails.items(), 1):
        write(
            root,
            {
                f"{place}/in{n}_label": label,
                f"{place}/in{n}_input": millivolts,
                f"{place}/curr{n}_input": milliamperes,
            },
        )


def test_rapl_adds_packages_and_memory_and_no_part_twice(tmp_path: Path) -> None:
    counters = {
        "0": zone(tmp_path, "0", "package-0", 1_000_000),
        "0:0": zone(tmp_path, "0:0", "core", 500_000),
        "0:1": zone(tmp_path, "0:1", "dram", 2_000_000),
        "1": zone(tmp_path, "1", "package-1", 262_143_000_000),
        "2": zone(tmp_path, "2", "psys", 9_000_000),
    }

    def work() -> str:
        counters["0"].write_text("4000000\n")
        counters["0:0"].write_text("600000\n")
        counters["0:1"].write_text("2500000\n")
        counters["1"].write_text("671150\n")  # it has begun anew
        counters["2"].write_text("99000000\n")
        return "done"

    meters, reasons = find_meters(gpu=False, root=tmp_path)
    assert [meter.name for meter in meters] == ["RAPL package-0", "RAPL dram", "RAPL package-1"]
    assert len(reasons) == 1
    result, joules = measured(meters, work)
    assert result == "done"
    assert joules == pytest.approx(3 + 0.5 + 1)


@pytest.mark.posix
def test_rapl_that_only_root_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = zone(tmp_path, "0", "package-0", 1)
    counter.chmod(0o400)
    if os.getuid() == 0:  # who may read everything: the error that others get

        def refuse(file: Path) -> int:
            raise PermissionError(13, "Permission denied", str(file))

        monkeypatch.setattr(energy, "_number", refuse)
    assert rapl(tmp_path) == f"RAPL: only root may read {counter}: run this with sudo, or chmod a+r it"


def test_a_machine_without_meters_says_why(tmp_path: Path) -> None:
    meters, reasons = find_meters(gpu=False, root=tmp_path)
    assert meters == []
    assert [reason.partition(":")[0] for reason in reasons] == ["INA3221", "RAPL"]
    assert measured(meters, lambda: 7) == (7, None)


def test_a_jetson_is_measured_where_power_enters_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "PERIOD", 0.01)
    sensor(tmp_path, 0, {"other": (1, 1)}, name="tmp451")
    sensor(tmp_path, 1, {"VDD_IN": (5000, 1200), "VDD_CPU_GPU_CV": (5000, 400), "VDD_SOC": (5000, 300)})
    zone(tmp_path, "0", "package-0", 1)
    meters, reasons = find_meters(gpu=True, root=tmp_path)
    assert [meter.name for meter in meters] == ["INA3221 VDD_IN"]
    assert reasons == []

    def work() -> float:
        begun = time.perf_counter()
        time.sleep(0.1)
        return time.perf_counter() - begun

    begun = time.perf_counter()
    seconds, joules = measured(meters, work)
    assert joules is not None
    assert (
        6 * seconds <= joules <= 6 * (time.perf_counter() - begun)
    )  # of 6 W; starting and stopping take time, too


def test_a_jetson_without_such_a_rail_is_the_sum_of_its_rails(tmp_path: Path) -> None:
    sensor(tmp_path, 3, {"VDD_GPU_SOC": (19000, 100), "VDD_CPU_CV": (19000, 50), "VIN_SYS_5V0": (5000, 700)})
    sensor(tmp_path, 4, {"NC": (0, 0), "VDDQ_VDD2_1V8AO": (5000, 80)})
    [meter] = ina3221(tmp_path)
    assert meter.name == "INA3221 VDDQ_VDD2_1V8AO + VDD_CPU_CV + VDD_GPU_SOC + VIN_SYS_5V0"
    (tmp_path / "class/hwmon/hwmon4/curr2_input").unlink()
    assert ina3221(tmp_path) == f"INA3221: {tmp_path}/class/hwmon/hwmon4/curr2_input: No such file or directory"


def test_nvml_stood_in_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of NVML only its absence is real here; the functions are stand-ins by the names of its reference."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml() == "NVML: pip install nvidia-ml-py"

    class NVMLError(Exception):
        pass

    def no_driver() -> None:
        raise NVMLError("NVML Shared Library Not Found")

    counted = iter([1000, 2000, 5500])  # millijoules: to see if it can be read, before, after
    stand_in = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda _handle: "NVIDIA H200",
        nvmlDeviceGetTotalEnergyConsumption=lambda _handle: next(counted),
    )
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)
    meters = nvml()
    assert not isinstance(meters, str)
    assert meters[0].name == "NVML NVIDIA H200"
    assert measured(meters, lambda: None) == (None, 3.5)
    stand_in.nvmlInit = no_driver
    assert nvml() == "NVML: NVML Shared Library Not Found"
