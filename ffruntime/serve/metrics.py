"""Figures in Prometheus' text format (version 0.0.4): requests, answers and how many are unsure, jobs, memory."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .work import Work

RECENT = 500  # answers whose share of unsure ones is told
BUCKETS = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 10_000)  # milliseconds
PAGE = 4096  # bytes: of /proc/self/statm


class Counts:
    """What is counted since the server began. Used in the event loop's thread."""

    def __init__(self) -> None:
        self.began = time.time()
        self.requests: Counter[tuple[str, int]] = Counter()  # by path of the API and status
        self.answers: Counter[str] = Counter()
        self.recent: deque[bool] = deque(maxlen=RECENT)
        self.took: list[int] = [0] * (len(BUCKETS) + 1)
        self.took_sum = 0.0

    def request(self, path: str, status: int) -> None:
        """A request was answered."""
        self.requests[path, status] += 1

    def answered(self, sure: Sequence[bool | None], took: float) -> None:
        """A picture was answered, in so many milliseconds."""
        for one in sure:
            self.answers["unsure" if one is False else "sure" if one else "unknown"] += 1
            self.recent.append(one is False)
        self.took[next((i for i, bound in enumerate(BUCKETS) if took <= bound), len(BUCKETS))] += 1
        self.took_sum += took


def text(counts: Counts, work: Work) -> str:
    """All figures."""
    jobs = work.jobs.counts
    share = sum(counts.recent) / len(counts.recent) if counts.recent else 0.0
    lines: list[str] = []

    def metric(name: str, kind: str, about: str, values: Iterable[tuple[str, float]]) -> None:
        lines.append(f"# HELP ffedge_{name} {about}")
        lines.append(f"# TYPE ffedge_{name} {kind}")
        lines.extend(f"ffedge_{name}{labels} {value:g}" for labels, value in values)

    metric(
        "requests_total",
        "counter",
        "Requests of the API that were answered.",
        ((_labels(path=path, status=str(code)), count) for (path, code), count in sorted(counts.requests.items())),
    )
    metric(
        "answers_total",
        "counter",
        "Answers to pictures.",
        ((_labels(sure=sure), counts.answers[sure]) for sure in ("sure", "unsure", "unknown")),
    )
    metric("unsure_share", "gauge", f"Share of unsure ones among the last {RECENT} answers.", [("", share)])
    metric("answer_milliseconds", "histogram", "From a picture's last byte to its answer.", ())
    total = 0
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts.took, strict=True):
        total += count
        lines.append(f"ffedge_answer_milliseconds_bucket{_labels(le=bound)} {total}")
    lines.append(f"ffedge_answer_milliseconds_sum {counts.took_sum:g}")
    lines.append(f"ffedge_answer_milliseconds_count {total}")
    metric("pictures_waiting", "gauge", "Pictures that wait or are being answered.", [("", work.in_turn)])
    metric("jobs_waiting", "gauge", "Jobs that run or wait.", [("", len(work.jobs.open()))])
    metric(
        "jobs_total",
        "counter",
        "Jobs that have ended.",
        ((_labels(kind=kind, state=state), count) for (kind, state), count in sorted(jobs.items())),
    )
    metric("version", "gauge", "Version of the weights that counts.", [("", work.known.version)])
    metric("classes", "gauge", "Classes that the network knows.", [("", len(work.model.classes))])
    metric("listeners", "gauge", "Open streams of events.", [("", len(work.events))])
    metric("memory_bytes", "gauge", "Memory of the process that is resident.", [("", _resident())])
    metric("start_time_seconds", "gauge", "When the server began, Unix time.", [("", counts.began)])
    return "\n".join(lines) + "\n"


def _labels(**labels: str) -> str:
    """`{name="value"}`, escaped."""
    escaped = (
        (name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n"))
        for name, value in labels.items()
    )
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError, ValueError):  # not Linux
        return 0
