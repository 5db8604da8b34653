"""Commands of `ffruntime`, one after another in one process: emulated, the engine takes many seconds to import.

    python benchmarks/aarch64_inside.py WORK

WORK/steps.json holds the commands' arguments, a list of lists; each begins in WORK. WORK/did.json then says of each
its exit code, what it printed and the seconds it took. Where there is WORK/models.json, an object of bundles and
numbers, `NAME-ARCHITECTURE.npy` then holds what bundle NAME makes of so many images of WORK/images.npy, uint8
(N, C, H, W): scores, float32 (N, classes).
"""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from commands import in_process_text

from ffruntime.model import Model


def main() -> None:
    work = Path(sys.argv[1])
    did = []
    for arguments in json.loads((work / "steps.json").read_text()):
        begun = time.perf_counter()
        done = in_process_text("ffruntime", *arguments, cwd=work)
        said = {"exit": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
        did.append({"arguments": arguments, **said, "seconds": round(time.perf_counter() - begun, 2)})
    (work / "did.json").write_text(json.dumps(did, indent=2))
    if (work / "models.json").exists():
        images = np.load(work / "images.npy")
        for name, (model, count) in json.loads((work / "models.json").read_text()).items():
            scores = Model(model, state=False).scores(images[:count])
            np.save(work / f"{name}-{platform.machine()}.npy", scores)


if __name__ == "__main__":
    main()
