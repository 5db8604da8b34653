"""What a sweep gave, as a table: for a terminal, as CSV, and for `sweep_figure.py`."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from ffruntime.core.errors import UsageError, unknown

from .display import csv_cell
from .study import Result

ORDER = ("classifier", "goodness")  # in which Scodellaro et al. give a row's figures: linear / goodness


class SweepRow(Struct, frozen=True):
    """All seeds of the same values: (mean, standard deviation or None of a single one) by inference mode."""

    values: dict[str, Any]
    runs: int
    accuracy: dict[str, tuple[float, float | None]]


def show_value(value: Any) -> str:
    """A value as it was typed, nearly."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def show_values(values: Mapping[str, Any]) -> str:
    """`schedule.batch=25 patterns.set=1`."""
    return " ".join(f"{field}={show_value(value)}" for field, value in values.items())


def swept_fields(results: Iterable[Result]) -> list[str]:
    """The fields that were swept, in the order in which they were named."""
    return list(dict.fromkeys(field for result in results for field in result.values))


def average_seeds(results: Sequence[Result], fields: Sequence[str]) -> list[SweepRow]:
    """A row for every combination of values, over all their seeds, sorted by `fields` in turn."""
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        groups.setdefault(tuple(_key(result.values.get(field)) for field in fields), []).append(result)
    rows = [
        SweepRow(
            group[0].values,
            sum(len(next(iter(result.accuracy.values()), ())) for result in group),
            {mode: _mean([a for result in group for a in result.accuracy[mode]]) for mode in group[0].accuracy},
        )
        for group in groups.values()
    ]
    ranks = {field: list(_sorted(row.values.get(field) for row in rows)) for field in fields}
    return sorted(rows, key=lambda row: [ranks[field].index(_key(row.values.get(field))) for field in fields])


def _mean(values: Sequence[float]) -> tuple[float, float | None]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _sorted(values: Iterable[Any]) -> dict[str, Any]:
    """Every value once, by a key: numbers by size, then the others as they came."""
    distinct = {_key(value): value for value in values}
    return dict(sorted(distinct.items(), key=lambda item: item[1] if is_number(item[1]) else math.inf))


def is_number(value: Any) -> bool:
    """Whether a value has a place on an axis."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def choose_axes(
    fields: Sequence[str], rows: str | None, columns: str | None, pair: bool
) -> tuple[list[str], str | None]:
    """(fields that name a row of the table, the field whose values are its columns), out of the swept ones.

    With `pair` and without being told, a second field makes the columns. Raises `UsageError` for a field that was
    not swept.
    """
    for field in filter(None, (rows, columns)):
        if field not in fields:
            raise unknown("swept field", field, fields)
    if rows and rows == columns:
        raise UsageError("--rows and --columns are the same field")
    if columns is None and pair and len(fields) > 1:
        columns = next(field for field in (*fields[1:], fields[0]) if field != rows)
    others = [field for field in fields if field not in (rows, columns)]
    return [*filter(None, [rows]), *others], columns


def sweep_table(rows: Sequence[SweepRow], names: Sequence[str], columns: str | None) -> list[list[str]]:
    """Lines of cells, a heading first: a line for all values of `names`, a cell "linear / goodness" for each of
    `columns`' values, in per cent of the validation images."""
    heads = _sorted(row.values.get(columns) for row in rows) if columns else {"": None}
    lines: dict[str, list[SweepRow]] = {}
    for row in rows:
        lines.setdefault(_key([row.values.get(name) for name in names]), []).append(row)
    titles = [f"{columns}={show_value(head)}" if columns else "linear / goodness" for head in heads.values()]
    body = []
    for line in lines.values():
        cells = {_key(row.values.get(columns)) if columns else "": _cell(row) for row in line}
        body.append(
            [show_value(line[0].values.get(name)) for name in names] + [cells.get(key, "") for key in heads]
        )
    return [[*names, *titles], *body]


def _cell(row: SweepRow) -> str:
    def figure(mode: str) -> str:
        if mode not in row.accuracy:
            return "–"
        mean, deviation = row.accuracy[mode]
        return f"{100 * mean:.2f}" + (f" ± {100 * deviation:.2f}" if deviation is not None else "")

    return " / ".join(map(figure, ORDER))


def table_text(lines: Sequence[Sequence[str]]) -> str:
    """The table for a terminal: columns aligned, two blanks between them."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def flat_row(row: SweepRow, fields: Sequence[str]) -> dict[str, Any]:
    """A row without nesting: every field's value, the number of runs, mean and deviation by mode."""
    figures = {
        name: value
        for mode, (mean, deviation) in row.accuracy.items()
        for name, value in ((mode, mean), (f"{mode}_deviation", deviation))
    }
    return {field: row.values.get(field) for field in fields} | {"runs": row.runs} | figures


def table_csv(rows: Sequence[SweepRow], fields: Sequence[str]) -> str:
    """All rows as CSV, with a heading; shares, not per cent."""
    flats = [flat_row(row, fields) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for one in flats for name in one)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in flat.items()} for flat in flats)
    return text.getvalue()
