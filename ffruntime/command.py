"""How every command of the three programs ends: a result, or one line on stderr and an exit code."""

from __future__ import annotations

import os
import sys

import click

from .errors import FFError

INTERRUPTED = 130


def run(command: click.Command) -> None:
    """Run a click command and exit: 0, or the code of what went wrong (`errors.py`). Never a traceback."""
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
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    sys.exit(code)
