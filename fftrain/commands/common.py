"""What the commands of fftrain share."""

from __future__ import annotations

from types import ModuleType

import click

from ffruntime.errors import MissingExtra


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
    """A line for the user, on stderr."""
    click.echo(line, err=True)
