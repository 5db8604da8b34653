"""The campaign against everything that reads: changed inputs, processes that race and that are killed.

    python benchmarks/attack.py WORK [--tries 100000] [--seed 0] [--until HH:MM] [--only KIND…] [--write]

Each reader (`attack_readers.py`) gets its share of the tries, in processes of `PORTION` tries that are watched from
outside: a traceback, a try of more than 10 s of processor time or that stands still for a minute, a process of more
than 1 GB, a word on stderr, a file outside the folder that the try was given. Races and kills are of a state: what
was acknowledged has to be there (`attack_state.py`). WORK keeps what was done, so that the next call goes on; the
same seed makes the same tries.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
import traceback
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

from attack_readers import READERS
from attack_state import kills, races
from common import record

from ffruntime.core.errors import FFError

PORTION = 2_000  # tries of a process
HANG = 10.0  # seconds of processor time for a try
STILL = 60.0  # seconds without any, of a try that waits for something
LARGEST = 1 << 30  # bytes of a process
SHOWN = 50  # faults that are written down


def child(kind: str, seed: int, first: int, count: int, folder: Path) -> None:
    """So many tries in this process; what came of them, as JSON on stdout."""
    found: dict[str, Any] = {"refused": 0, "taken": 0, "faults": []}
    large = False
    (folder / "try").write_text(str(first))
    once = READERS[kind].make(folder)
    progress = os.open(folder / "try", os.O_WRONLY)
    for number in range(first, first + count):
        os.pwrite(progress, str(number).encode(), 0)
        begun = time.process_time()
        try:
            once(random.Random(f"{seed} {kind} {number}"))
            found["taken"] += 1
        except FFError as error:
            found["refused"] += 1
            if "\n" in str(error):  # other signs are escaped where it is printed
                found["faults"].append([number, "lines", repr(str(error))[:300]])
        except MemoryError:
            found["refused"] += 1
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {str(error)[:200]}"
            found["faults"].append([number, "traceback", said])
        if (seconds := time.process_time() - begun) > HANG:
            found["faults"].append([number, "hang", f"{seconds:.0f} s"])
        if not large and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > LARGEST:
            large = True
            found["faults"].append([number, "memory", "more than 1 GB"])
    print(json.dumps(found))


def portion(kind: str, seed: int, first: int, count: int, work: Path) -> dict[str, Any]:
    """So many tries in a process of their own, watched."""
    place = work / "place"
    shutil.rmtree(place, ignore_errors=True)
    folders = {name: place / name for name in ("given", "home", "tmp", "outside")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    (folders["outside"] / "mine.txt").write_text("mine")
    environment = {
        **os.environ,
        "HOME": str(folders["home"]),
        "TMPDIR": str(folders["tmp"]),
        "TORCHINDUCTOR_CACHE_DIR": str(folders["given"]),  # which torch makes when it is loaded
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)]),
    }
    arguments = ["--child", kind, str(seed), str(first), str(count), str(folders["given"])]
    with (work / "out").open("wb") as out, (work / "said").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, __file__, *arguments], stdout=out, stderr=said, cwd=folders["home"], env=environment
        )
        stopped = _watch(process, folders["given"] / "try")
    faults: list[list[Any]] = []
    found: dict[str, Any] = {"refused": 0, "taken": 0, "faults": faults}
    done = count
    if stopped or process.returncode:
        at = int((folders["given"] / "try").read_text() or first)
        faults.append([at, "hang" if stopped else "crash", stopped or f"exit {process.returncode}"])
        done = at - first + 1
    else:
        found = json.loads((work / "out").read_text())
    if text := (work / "said").read_text(errors="replace").strip():
        found["faults"].append([first, "stderr", text[-300:]])
    kept = [file for name in ("home", "tmp") for file in sorted(folders[name].rglob("*"))]
    strange = sorted(set(place.iterdir()) - set(folders.values()))
    whole = sorted(folders["outside"].iterdir()) == [folders["outside"] / "mine.txt"]
    whole = whole and (folders["outside"] / "mine.txt").read_text() == "mine"
    if kept or strange or not whole:
        found["faults"].append([first, "outside", ", ".join(map(str, [*kept, *strange]))[:300] or "changed"])
    return {"kind": kind, "first": first, "tries": done, **found}


def _watch(process: subprocess.Popen, progress: Path) -> str:
    """Wait for the process to end; why it was stopped, if it was."""
    last, begun = "", 0.0  # the try, and the processor time when it began
    seen, since = 0.0, time.monotonic()  # the processor time, and when it last grew
    while process.poll() is None:
        time.sleep(0.2)
        try:
            now = progress.read_text()
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # not begun yet, or ended
            continue
        used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        if now != last:
            last, begun = now, used
        if used != seen:
            seen, since = used, time.monotonic()
        why = f"{used - begun:.0f} s" if used - begun > 3 * HANG else ""
        if why or time.monotonic() - since > STILL:
            process.kill()
            process.wait()
            return why or "it stands still"
    return ""


def campaign(o: argparse.Namespace) -> list[dict[str, Any]]:
    """Go on with the portions that were not done yet, reader after reader, until it is time."""
    log = o.work / "portions.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = Counter[str]()
    for row in rows:
        done[row["kind"]] = max(done[row["kind"]], row["first"] + row["tries"])
    wanted = {kind: o.tries * reader.share // 1000 for kind, reader in READERS.items()}
    while open_kinds := [kind for kind in wanted if done[kind] < wanted[kind] and kind in (o.only or wanted)]:
        for kind in open_kinds:
            if o.until and datetime.now().strftime("%H:%M") >= o.until:
                return rows
            row = portion(kind, o.seed, done[kind], min(PORTION, wanted[kind] - done[kind]), o.work)
            done[kind] += row["tries"]
            rows.append(row)
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{kind}: {done[kind]:,} of {wanted[kind]:,}; faults {len(row['faults'])}", flush=True)
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts, by reader and of each kind of fault."""
    kinds: dict[str, dict[str, Any]] = {}
    for row in rows:
        one = kinds.setdefault(row["kind"], {"tries": 0, "refused": 0, "faults": Counter()})
        one["tries"] += row["tries"]
        one["refused"] += row["refused"]
        one["faults"].update(fault[1] for fault in row["faults"])
    faults = [[row["kind"], *fault] for row in rows for fault in row["faults"]]
    names = ("traceback", "hang", "memory", "outside", "stderr", "lines", "crash")
    return {
        "tries": sum(one["tries"] for one in kinds.values()),
        "faults": {name: sum(one["faults"][name] for one in kinds.values()) for name in names},
        "readers": kinds,
        "shown": faults[:SHOWN],
    }


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        kind, seed, first, count, folder = sys.argv[2:]
        child(kind, int(seed), int(first), int(count), Path(folder))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--tries", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--until", metavar="HH:MM")
    parser.add_argument("--only", nargs="*", choices=list(READERS))
    parser.add_argument("--races", type=int, default=60)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--write", action="store_true", help="write results/attack.json")
    o = parser.parse_args()
    o.work.mkdir(parents=True, exist_ok=True)
    state = o.work / "state.json"
    if not state.exists() and not o.only:
        state.write_text(
            json.dumps({"races": races(o.work, o.races, o.seed), "kills": kills(o.work, o.kills, o.seed)})
        )
    found = {"seed": o.seed, "asked": o.tries, **summary(campaign(o))}
    if state.exists():
        found |= json.loads(state.read_text())
    if o.write:
        record("attack", found)
    else:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
