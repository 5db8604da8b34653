"""What a training run shows while it runs: a bar with figures, a line for every epoch. All on stderr."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .train import Report


def percent(share: float) -> str:
    """0.98765 -> `98.77 %`."""
    return f"{100 * share:.2f} %"


def duration(seconds: float) -> str:
    """Seconds for people: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _figures(losses: list[float | None], accuracies: list[float | None]) -> str:
    rows = enumerate(zip(losses, accuracies, strict=True), 1)
    trained = [(k, loss, a) for k, (loss, a) in rows if loss is not None and a is not None and loss == loss]
    return "  ".join(f"unit{k} loss {loss:.3f} disc {100 * a:.1f} %" for k, loss, a in trained)


def epoch_line(row: dict[str, Any], epochs: int) -> str:
    """One epoch's line: loss and discrimination accuracy per unit, validation accuracy per inference mode."""
    figures = _figures(row["loss"], row["discrimination_accuracy"])
    validation = ", ".join(f"{mode} {percent(share)}" for mode, share in row["validation"].items())
    return f"epoch {row['epoch']:>3}/{epochs}  {figures}  validation: {validation}"


def show(reports: Iterable[Report], steps_per_epoch: int, epochs: int) -> None:
    """Consume a run's reports, and with that run it, showing where it is.

    Time left is told from the first report on, so that it is right for a run that was resumed, too.
    """
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
        task = bar.add_task("", total=epochs * steps_per_epoch, figures="")
        first = True
        for report in reports:
            position = report.epoch * steps_per_epoch + report.step
            if first:
                bar.reset(task, completed=position)
                first = False
            bar.update(task, completed=position)
            if report.figures is not None:
                bar.update(task, figures=_figures(*report.figures[:-1].T.tolist()))
            if report.row:
                console.print(epoch_line(report.row, epochs))
