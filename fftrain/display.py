"""What commands tell who waits for them: lines, bars with figures, times. All on stderr."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ffruntime.command import echo

if TYPE_CHECKING:
    from .run import Status


def say(line: str) -> None:
    """A line for the user, on stderr; of several processes (torchrun) the first one speaks."""
    if os.environ.get("RANK", "0") == "0":
        echo(line, err=True)


def csv_cell(value: object) -> object:
    """A value as a spreadsheet should take it: text never as a formula (OWASP, CSV injection)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def percent(share: float) -> str:
    """0.98765 -> `98.77 %`."""
    return f"{100 * share:.2f} %"


def duration(seconds: float) -> str:
    """Seconds for people: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def show_training(statuses: Iterable[Status], steps_per_epoch: int) -> None:
    """Consume where a run is, and with that run it: a bar with figures, a line for every epoch, and one when the
    clock has decided how many steps there are.

    Time left is told from the first status on, so that it is right for a run that was resumed, too.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (
        TextColumn("training"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None, figures="")
        first, undecided = True, False
        for status in statuses:
            position = status.epoch * steps_per_epoch + status.step
            if first:
                bar.reset(task, completed=position)
                first = False
            bar.update(task, completed=position, total=status.total)
            if undecided and status.total is not None:
                console.print(
                    f"there is time for {status.total:,} steps, {status.total / steps_per_epoch:.1f} epochs; "
                    f"--steps {status.total} repeats this run"
                )
            undecided = status.total is None
            if status.figures is not None:
                losses, accuracies = status.figures[:-1].T.tolist()
                bar.update(task, figures=_figures(losses, accuracies, status.of_classes))
            if status.row:
                epochs = None if status.total is None else math.ceil(status.total / steps_per_epoch)
                console.print(epoch_line(status.row, epochs))


def epoch_line(row: dict[str, Any], epochs: int | None) -> str:
    """One epoch's line: loss and accuracy per unit, validation accuracy per inference mode."""
    of_classes = "unit_accuracy" in row
    figures = _figures(row["loss"], row["unit_accuracy" if of_classes else "discrimination_accuracy"], of_classes)
    validation = ", ".join(f"{mode} {percent(share)}" for mode, share in row["validation"].items())
    line = f"epoch {row['epoch']:>3}{'' if epochs is None else f'/{epochs}'}  {figures}  validation: {validation}"
    if "total" in row:
        total = row["total"]
        line += f"\ntotal, chosen on all validation images: {total['name']}, {percent(total['accuracy'])}"
    return line


def _figures(losses: list[float | None], accuracies: list[float | None], of_classes: bool) -> str:
    """`of_classes`: the accuracies are of a unit's own answers, not of positive against negative data."""
    what = "right" if of_classes else "disc"
    rows = enumerate(zip(losses, accuracies, strict=True), 1)
    trained = [(k, loss, a) for k, (loss, a) in rows if loss is not None and a is not None and loss == loss]
    return "  ".join(f"unit{k} loss {loss:.3f} {what} {100 * a:.1f} %" for k, loss, a in trained)


@contextmanager
def evaluation_bar(total: int) -> Iterator[Callable[[int], None]]:
    """A bar with the time left, while passes through the network are made; what is yielded is told how many."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("evaluating"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda made: bar.advance(task, made)


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
