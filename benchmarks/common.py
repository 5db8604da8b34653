"""What every benchmark writes down: its result, and where it was measured."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

RESULTS = Path(os.environ.get("FF_RESULTS") or Path(__file__).parent / "results")
CELLS = 4  # a side of the readouts of equal units that are compared


def machine() -> dict[str, str]:
    """The machine and the packages that matter."""
    cpu = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
    packages = {name: version(name) for name in ("torch", "onnxruntime-gpu", "onnxruntime") if _installed(name)}
    return {
        "cpu": f"{len(os.sched_getaffinity(0))} cores of {cpu}",
        "python": platform.python_version(),
        **packages,
    }


def _installed(name: str) -> bool:
    return any(True for _ in distributions(name=name))


def record(name: str, result: dict[str, Any]) -> None:
    """Print the result and write it to `results/<name>.json`."""
    text = json.dumps({"machine": machine(), **result}, indent=2)
    print(text)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n")


def recorded(name: str) -> dict[str, Any]:
    """What `results/<name>.json` says; nothing where it is not there."""
    path = RESULTS / f"{name}.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return result
