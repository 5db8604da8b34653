"""Programs as a container's first process: one whose process id is 1, which the kernel spares every signal that it
does not handle itself."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

UNSHARE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child")


@cache
def problem() -> str | None:
    """Why no process can be a first one here; or None."""
    if shutil.which("unshare") is None:
        return "no unshare here: a process of its own namespace cannot be started"
    done = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True)
    return f"no process of its own namespace: {done.stderr.strip()}" if done.returncode else None


def children(process: int) -> list[int]:
    """Ids of the processes that the main thread of one has started."""
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


class First:
    """`python ARGUMENTS…`, running as process 1. Skips the test where that cannot be done."""

    def __init__(self, *arguments: object, cwd: Path, **environment: str) -> None:
        if reason := problem():
            pytest.skip(reason)
        command = [*UNSHARE, sys.executable, *map(str, arguments)]
        pipe, whole = subprocess.PIPE, {**os.environ, **environment}
        self.process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=cwd, env=whole)

    def wait_for(self, words: str, stream: str = "stderr") -> str:
        """Read a stream up to a line with these words; returns all of it up to there."""
        said = ""
        for line in getattr(self.process, stream):
            said += line
            if words in line:
                return said
        raise AssertionError(f"it ended, and did not say '{words}': {said}")

    def children(self) -> list[int]:
        """Processes that process 1 has started, by their ids out here."""
        return [child for first in children(self.process.pid) for child in children(first)]

    def terminate(self, seconds: float = 60) -> tuple[int, str, str]:
        """Send SIGTERM to process 1 -> its exit code, and the rest of what it says on stdout and stderr."""
        (first,) = children(self.process.pid)
        os.kill(first, signal.SIGTERM)
        try:
            said, errors = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()  # and with it process 1
            raise
        return self.process.returncode, said, errors
