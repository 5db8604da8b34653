"""How every command of the three programs ends: a result, or one line on stderr and an exit code."""

from __future__ import annotations

import io
import sys

import click

from .core.errors import FFError, StorageError

INTERRUPTED = 130


def run(command: click.Command) -> None:
    """Run a click command and exit: 0, or the code of what went wrong (`errors.py`), said in one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may be anything
            stream.reconfigure(errors="backslashreplace")
    try:
        code = command.main(standalone_mode=False)
    except FFError as error:
        click.echo(f"error: {error}", err=True)
        code = error.exit_code
    except click.ClickException as error:
        path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else command.name
        click.echo(f"error: {' '.join(error.format_message().split())} (see '{path} --help')", err=True)
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = INTERRUPTED
    except OSError as error:
        click.echo(f"error: {error.filename or 'output'}: {error.strerror or error}", err=True)
        code = StorageError.exit_code
    sys.exit(code)
