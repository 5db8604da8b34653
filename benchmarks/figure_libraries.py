"""What a library for images would cost a device that finds figures without one (`ffruntime/pictures/figure.py`).

    python benchmarks/figure_libraries.py

Processor time and peak memory of importing each after numpy and Pillow, the least of five fresh processes. The size
is that of the newest aarch64 wheel of PyPI for Python 3.13 (pip download --platform manylinux_2_28_aarch64).
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

from common import record

WHEELS = {"scipy": 34.0, "cv2": 39.6, "skimage": 13.1, "ffruntime": 0.0}  # MB; skimage needs scipy beside it
IMPORTS = {
    "scipy": "scipy.ndimage",
    "cv2": "cv2",
    "skimage": "skimage.measure, skimage.morphology",
    "ffruntime": "ffruntime.pictures.figure",
}
CODE = """
import numpy, PIL.Image, PIL.ImageFilter, resource, time
before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
import {}
print(time.process_time() - before[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before[1])
"""


def cost(module: str) -> dict[str, float]:
    """Milliseconds of the processor, and MiB."""
    commands = [[sys.executable, "-c", CODE.format(module)]] * 5
    runs = [subprocess.run(one, capture_output=True, text=True, check=True).stdout.split() for one in commands]
    return {"ms": 1000 * min(float(run[0]) for run in runs), "mib": min(float(run[1]) for run in runs) / 1024}


def main() -> None:
    found: dict[str, Any] = {
        IMPORTS[name]: {**cost(IMPORTS[name]), "wheel": WHEELS[name]}
        for name in IMPORTS
        if importlib.util.find_spec(name)
    }
    record("figure_libraries", {"libraries": found})


if __name__ == "__main__":
    main()
