"""The command line of fftrain. The commands stand in `fftrain/commands/`."""

from __future__ import annotations

import click

from ffruntime import command

from .commands.evaluate import evaluate
from .commands.explain import explain
from .commands.show import labels, negatives, recipes, report
from .commands.sweep import sweep
from .commands.train import COMMANDS, EPILOG


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=EPILOG,
    no_args_is_help=False,
)
@click.version_option(package_name="ffedge")
def cli() -> None:
    """Train Forward-Forward networks: every unit by its own loss, without backpropagation."""


for _command in (*COMMANDS, evaluate, explain, report, recipes, labels, negatives, sweep):
    cli.add_command(_command)


def main() -> None:
    """Entry point of `fftrain`."""
    command.run(cli)
