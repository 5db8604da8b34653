"""What the commands of fftrain share."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

import click

from ffruntime.core.errors import MissingExtra


def import_torch(threads: int | None = None) -> ModuleType:
    """torch, on so many CPU threads. Raises `MissingExtra` where it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch", "train") from error
    if threads:
        torch.set_num_threads(threads)
    return torch


def say(line: str) -> None:
    """A line for the user, on stderr; of several processes (torchrun) the first one speaks."""
    if os.environ.get("RANK", "0") == "0":
        click.echo(line, err=True)


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Within it, Ctrl-C and SIGTERM only set a flag, which the yielded function reads; a second one interrupts."""
    asked = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _frame: object) -> None:
        asked.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
