"""The command line of ffruntime. The commands stand in `ffruntime/commands/`."""

from __future__ import annotations

import click

from . import command
from .commands.bench import bench
from .commands.classify import classify
from .commands.demo import demo
from .commands.explain import explain
from .commands.inspect import devices, info, plan, verify
from .commands.learn import learn
from .commands.learned import apply_state, diff, export_state, forget, history, renormalise, reset, rollback
from .commands.merge import merge_states
from .commands.serve import serve

EPILOG = """\b
Examples:
  ffruntime classify three.png                  the answer, how sure, how fast
  ffruntime classify --watch inbox --json       every picture that appears there
  ffruntime learn sketch.png --label A          a symbol that the network has never seen
  ffruntime history; ffruntime rollback         what was learned, and back
  ffruntime plan --device raspberry-pi-zero-2w  what fits there
  ffruntime demo                                learning, measured and shown
  ffruntime COMMAND --help                      more examples

\b
Exit codes: 0 done, 1 other errors and missing packages, 2 usage, 3 bundle, 4 image (the others are done all the
same), 5 data set, 6 backend or device, 7 golden check, 8 cannot write, 9 learned state, 10 update refused,
11 an answer is not sure, 12 a picture looks like another class, 130 interrupted."""


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=EPILOG,
    no_args_is_help=False,
)
@click.version_option(package_name="ffedge")
def cli() -> None:
    """Run a Forward-Forward network on the device."""


for _command in (
    classify,
    learn,
    serve,
    info,
    bench,
    plan,
    verify,
    explain,
    history,
    rollback,
    diff,
    forget,
    renormalise,
    reset,
    export_state,
    apply_state,
    merge_states,
    demo,
    devices,
):
    cli.add_command(_command)


def main() -> None:
    """Entry point of `ffruntime`."""
    command.run(cli)
