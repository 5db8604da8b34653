"""`ffruntime serve` under load: 8 clients classify, then one teaches beside them; throughput over the same files
through `Model.classify` in a loop, in slices that take turns; errors, and memory from the first minute to the last.

    python benchmarks/serve.py [--seconds 600] [--write]

The server and the clients are processes of their own. Teaching is what the page does, an example after the other;
`updating` is an update that never stops beside the answers.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from attack_serve import peak_mib
from common import record
from PIL import Image

from ffruntime.core.plan import UNLIMITED, plan
from ffruntime.core.shipped import MODEL
from ffruntime.model import Model
from ffruntime.session import Session

CLIENTS = 8
FILES = 20
SLICE = 5.0  # seconds of one kind of load before the next
KINDS = ("rest", "teaching", "updating")
API = "/api/v1"


def files(folder: Path) -> list[Path]:
    """Images of the bundle as PNG files, at four times their size: what somebody draws."""
    found = []
    for index, image in enumerate(Model(MODEL, state=False).bundle.some_images()[:FILES]):
        found.append(folder / f"{index:02}.png")
        Image.fromarray(255 - image[0]).resize((112, 112)).save(found[-1])
    return found


def loop(model: Model, paths: list[Path], seconds: float) -> float:
    """Pictures a second, one after the other."""
    start = count = 0.0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        model.classify(paths[int(count) % len(paths)])
        count += 1
    return count / (time.perf_counter() - start)


class Client:
    """A connection that is kept."""

    def __init__(self, place: str) -> None:
        self._connection = http.client.HTTPConnection(place, timeout=60)

    def __call__(self, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        self._connection.request("GET" if body is None else "POST", f"{API}{path}", body)
        answer = self._connection.getresponse()
        return answer.status, answer.read()


def clients(place: str, pictures: list[bytes], asked: Any, told: Any) -> None:
    """Process of the clients: for every number of seconds that it is asked, pictures a second and errors."""

    def classify(end: float, counts: list[int]) -> None:
        ask, index = Client(place), 0  # a new connection: the server closes one that rests for long
        while time.perf_counter() < end:
            try:
                status, _ = ask("/classify", pictures[index % len(pictures)])
            except (OSError, http.client.HTTPException):
                ask, status = Client(place), 0
            counts[0 if status == 200 else 1] += 1
            index += 1

    while (seconds := asked.get()) is not None:
        counts = [[0, 0] for _ in range(CLIENTS)]
        start = time.perf_counter()
        threads = [threading.Thread(target=classify, args=(start + seconds, mine)) for mine in counts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        elapsed = time.perf_counter() - start
        told.put((sum(good for good, _ in counts) / elapsed, sum(bad for _, bad in counts)))


@contextlib.contextmanager
def beside(work: Callable[[], None] | None) -> Any:
    """Something that is done again and again while the block runs."""
    stop = threading.Event()

    def again() -> None:
        while work and not stop.is_set():
            work()

    thread = threading.Thread(target=again)
    thread.start()
    yield
    stop.set()
    thread.join()


def resident_mib(process: int) -> float:
    """Memory of a process that is resident now."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096 / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--write", action="store_true", help="write results/serve.json")
    o = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as ending:
        folder = Path(name)
        paths = files(folder)
        command = [sys.executable, "-m", "ffruntime", "serve", "--json", "--port", "0", "--rate", "1000000"]
        command += ["--model", str(MODEL), "--state", str(folder / "model.state")]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        ending.callback(server.kill)
        assert server.stdout
        place = json.loads(server.stdout.readline())["address"].removeprefix("http://").rstrip("/")
        asked, told = multiprocessing.Queue(), multiprocessing.Queue()  # type: ignore[var-annotated]
        pictures = [path.read_bytes() for path in paths]
        process = multiprocessing.Process(target=clients, args=(place, pictures, asked, told))
        process.start()
        ending.callback(process.terminate)
        teacher, taught, failed = Client(place), [0, 0], [0]
        model = Model(MODEL, session=Session(), state=False)

        def teach(update: str) -> None:
            status, body = teacher(f"/learn?label=3&yes=true&update={update}", pictures[taught[0] % FILES])
            failed[0] += status not in (200, 202)
            taught[0] += 1
            job = json.loads(body).get("job")
            while job and job["state"] in ("queued", "running"):
                time.sleep(0.05)
                job = json.loads(teacher(f"/jobs/{job['id']}")[1])
            taught[1] += sum(change["adopted"] for change in job["changes"]) if job else 0

        loads = dict(zip(KINDS, (None, partial(teach, "auto"), partial(teach, "now")), strict=True))
        rates: dict[str, list[float]] = {kind: [] for kind in ("loop", *KINDS)}
        ratios: dict[str, list[float]] = {kind: [] for kind in KINDS}
        errors, memory, start = 0, list[float](), time.perf_counter()
        loop(model, paths, 1)
        while time.perf_counter() - start < o.seconds:
            for kind, load in loads.items():
                before = loop(model, paths, SLICE / 2)
                with beside(load):
                    asked.put(SLICE)
                    rate, wrong = told.get()
                whole = (before + loop(model, paths, SLICE / 2)) / 2
                rates["loop"].append(whole)
                rates[kind].append(rate)
                ratios[kind].append(rate / whole)
                errors += wrong
            memory.append(resident_mib(server.pid))
        asked.put(None)
        process.join()
        peak, seconds = peak_mib(server.pid), time.perf_counter() - start
        server.terminate()
        code = server.wait(30)
    manifest = model.manifest
    planned = plan(manifest, len(manifest.classes), "fp32", UNLIMITED, serving=True).needs[-1].memory.total / 2**20
    result = {
        "clients": CLIENTS,
        "seconds": round(seconds),
        "pictures_per_second": {kind: round(statistics.median(some), 1) for kind, some in rates.items()},
        "over_loop": {kind: round(statistics.median(some), 2) for kind, some in ratios.items()},
        "errors": errors + failed[0],
        "examples_taught": taught[0],
        "updates_adopted": taught[1],
        "resident_mib": {"first": round(memory[0], 1), "last": round(memory[-1], 1), "most": round(max(memory), 1)},
        "peak_mib": round(peak, 1),
        "planned_mib": round(planned, 1),
        "exit_code": code,
    }
    if o.write:
        record("serve", result)
    else:
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
