"""The three programs in the tests' own process: what a user types, without a second for every start."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock


def in_process(
    program: str,
    *arguments: object,
    stdin: bytes = b"",
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """`program` with these arguments, as `subprocess.run` gives it: exit code, stdout and stderr in bytes.

    Through the entry point of the installed command, errors and exit codes included. What a process has to itself,
    such as its memory, its signals and a broken pipe, needs a real one.
    """
    main = importlib.import_module(f"{program}.cli").main
    words = [program, *map(str, arguments)]
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for name in ("stdout", "stderr")}
    given = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    before, code = Path.cwd(), None
    try:
        with contextlib.ExitStack() as patches:
            patches.enter_context(mock.patch.multiple(sys, argv=words, stdin=given, **streams))
            patches.enter_context(mock.patch.dict(os.environ, env or {}))
            os.chdir(cwd or before)
            try:
                main()
            except SystemExit as end:
                code = end.code
    finally:
        os.chdir(before)
    said = []
    for stream in streams.values():
        stream.flush()
        said.append(stream.buffer.getvalue())  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(words, int(code or 0), *said)


def in_process_text(
    program: str, *arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The same, with what it said as text."""
    done = in_process(program, *arguments, cwd=cwd, env=env)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
