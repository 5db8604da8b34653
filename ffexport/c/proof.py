"""The golden check of a C project on this machine: compiled and run, where there is a C compiler."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ffruntime.core.errors import FFError, ParityError

from ..prove import scratch_folder

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-std=c99", "-O1", "-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror")
SECONDS = 300  # for compiling, and for the check
CHECK = """\
#include "model.h"
#include <stdio.h>

static uint32_t arena[FF_ARENA_WORDS];

int main(void)
{
    struct ff_net net;
    float worst = -1.0f;
    enum ff_error error = ff_init(&net, &ff_model, arena, sizeof arena);
    if (error == FF_OK)
        error = ff_golden(&net, &ff_golden_vectors, &worst);
    printf("%d %.9g\\n", (int)error, (double)worst);
    return 0;
}
"""


def golden_error(files: Mapping[str, bytes]) -> float | None:
    """The largest error of a project's golden check, as a share of the largest value there; None: no C compiler.

    Raises `ParityError` where it fails, `FFError` where the project does not compile.
    """
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        return None
    with scratch_folder() as folder:
        sources = [*(name for name in files if name.endswith(".c") and "/" not in name), "check.c"]
        for name, data in {**files, "check.c": CHECK.encode()}.items():
            if "/" not in name:
                (folder / name).write_bytes(data)
        made = _run([compiler, *FLAGS, *sources, "-lm", "-o", "check"], folder)
        if made.returncode:
            raise FFError(f"{compiler}: C does not compile, a defect of ffexport: {_first(made.stderr)}")
        ran = _run([str(folder / "check")], folder)
    try:
        error, worst = ran.stdout.split()
    except ValueError as reason:
        raise FFError(f"the C project's golden check ended with {ran.returncode}, a defect of ffexport") from reason
    if error != "0":
        raise ParityError(f"C: the golden vectors are not reproduced: error {error}, off by {float(worst):.1e}")
    return float(worst)


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=SECONDS, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FFError(f"{command[0]}: cannot be run to check the C project: {error}") from error


def _first(text: str) -> str:
    lines = [line for line in text.splitlines() if "error" in line] or text.splitlines() or ["it says nothing"]
    return lines[0]
