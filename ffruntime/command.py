"""What every command of the three programs has: numbers that are numbers, lines that a terminal only shows, and an
end: a result, or one line on stderr and an exit code."""

from __future__ import annotations

import io
import math
import os
import sys
from typing import Any

import click

from .core.errors import FFError, StorageError, printable
from .start import INTERRUPTED

LARGEST = 1 << 31  # of whole numbers; more than any command can do


def echo(text: str, err: bool = False) -> None:
    """Print lines, with escapes for what a terminal would obey: names of files and classes may be anything."""
    click.echo("\n".join(map(printable, text.split("\n"))), err=err)


class Number(click.FloatRange):
    """A number option: within its range, and neither NaN nor infinite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no number to compute with.", param, ctx)
        return number


class Count(click.IntRange):
    """A whole number option: within its range, and at most `most`."""

    def __init__(self, min: int, most: int = LARGEST) -> None:
        super().__init__(min)
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number: int = super().convert(value, param, ctx)
        if number > self.most:
            self.fail(f"{value} is too large; at most {self.most:,}.", param, ctx)
        return number


THREADS = Count(1, most=1024)


def run(command: click.Command) -> None:
    """Run a click command and exit: 0, or the code of what went wrong (`errors.py`), said in one line on stderr."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may be anything
            stream.reconfigure(errors="backslashreplace")
    try:
        code = command.main(standalone_mode=False)
    except FFError as error:
        echo(f"error: {printable(str(error))}", err=True)
        code = error.exit_code
    except click.ClickException as error:
        path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else command.name
        echo(f"error: {' '.join(error.format_message().split())} (see '{path} --help')", err=True)
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = INTERRUPTED
    except MemoryError:
        click.echo("error: not enough memory; smaller pictures, or fewer of them at a time, take less", err=True)
        code = FFError.exit_code
    except OSError as error:
        echo(f"error: {printable(str(error.filename or 'output'))}: {error.strerror or error}", err=True)
        code = StorageError.exit_code
    sys.exit(code)


def _open_closed_streams() -> None:
    """Open what the process was started without: the next file would get its number, and what is printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
