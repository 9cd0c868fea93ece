"""Our rows among the report's: one long frame that every format is made from.

Rows are sorted by size, those of unknown size last. The best value of a column is marked, whosever it is; only our
numbers have intervals, as the report prints none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reports import paper
from reports.ours import Cell, TableRow, our_rows

if TYPE_CHECKING:
    import pandas

REPORT = "the report"
"""The source of the report's own rows."""


@dataclass(frozen=True)
class Shown:
    """A cell in print, with the numbers of its footnotes."""

    text: str
    best: bool = False
    notes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Line:
    """A row in print."""

    model: str
    size: str
    ours: bool
    cells: tuple[Shown, ...]


@dataclass(frozen=True)
class Beside:
    """A table or figure of the report with our rows in it."""

    name: str
    frame: pandas.DataFrame
    """A row per model and column: row (from 0, in print's order), source (REPORT or the folder's name), model, params,
    billions, group, column, value, low, high (in the column's unit; intervals ours alone), n, task, best, notes."""
    heads: tuple[Shown, ...]
    """The columns; their notes are those of the report's own numbers."""
    lines: tuple[Line, ...]
    footnotes: tuple[str, ...]
    """Numbered from 1."""
    general: tuple[str, ...]
    """What is said of the whole table."""

    @property
    def title(self) -> str:
        """In print."""
        return f"{paper.label(self.name)}: {paper.table(self.name).title}"


def beside(paths: Sequence[Path], name: str) -> Beside:
    """The report's table or figure with a row for each run folder, or each cell of a sweep, that has a number for it.

    Raises LookupError if there is no such table, RunError if no folder has a number for it.
    """
    import pandas

    table = paper.table(name)
    rows = sorted(
        [*_theirs(table), *our_rows(paths, name)], key=lambda row: (row.billions or math.inf, row.source != REPORT)
    )
    best = {
        column: _best([row.cells[column].value for row in rows if column in row.cells], facts.better)
        for column, facts in table.columns.items()
    }
    footnotes: list[str] = []
    models = {row["model"] for row in table.rows}
    heads = tuple(
        Shown(column, notes=_numbers(_of_column(table, column, models), footnotes)) for column in table.columns
    )
    records, lines = [], []
    for place, row in enumerate(rows):
        shown = []
        for column, facts in table.columns.items():
            cell = row.cells.get(column)
            is_best = cell is not None and cell.value == best[column]
            records.append(_record(place, row, column, cell, is_best))
            notes = _numbers(cell.notes, footnotes) if cell else ()
            shown.append(Shown(_text(cell, facts.decimals), is_best, notes))
        lines.append(Line(row.model, row.params or "–", row.source != REPORT, tuple(shown)))
    general = tuple(note["text"] for note in table.notes if note["columns"] is None)
    return Beside(name, pandas.DataFrame(records), heads, tuple(lines), tuple(footnotes), general)


def _theirs(table: paper.PaperTable) -> list[TableRow]:
    return [
        TableRow(
            source=REPORT,
            model=row["model"],
            params=row["params"],
            group=row.get("group"),
            cells={column: Cell(value=value) for column, value in row["values"].items() if value is not None},
        )
        for row in table.rows
    ]


def _best(values: Sequence[float], better: str | None) -> float | None:
    if better is None or not values:
        return None
    return max(values) if better == "higher" else min(values)


def _of_column(table: paper.PaperTable, column: str, models: set[str]) -> list[str]:
    """Notes of this column; those of the whole table are listed by themselves."""
    whole = {note["text"] for note in table.notes if note["columns"] is None}
    return [note for note in paper.notes(table.name, column, models) if note not in whole]


def _numbers(notes: Sequence[str], footnotes: list[str]) -> tuple[int, ...]:
    footnotes.extend(note for note in dict.fromkeys(notes) if note not in footnotes)
    return tuple(sorted(footnotes.index(note) + 1 for note in set(notes)))


def _record(place: int, row: TableRow, column: str, cell: Cell | None, best: bool) -> dict[str, object]:
    record: dict[str, object] = {"row": place, "source": row.source, "model": row.model, "params": row.params}
    record |= {"billions": row.billions, "group": row.group, "column": column}
    numbers = (cell.value, cell.low, cell.high, cell.n) if cell else (None,) * 4
    record |= {
        name: math.nan if number is None else float(number)
        for name, number in zip(("value", "low", "high", "n"), numbers, strict=True)
    }
    return record | {
        "task": cell.task if cell else None,
        "best": best,
        "notes": " ".join(cell.notes) or None if cell else None,
    }


def _text(cell: Cell | None, decimals: int) -> str:
    if cell is None:
        return "–"
    if cell.low is None or cell.high is None:
        return f"{cell.value:.{decimals}f}"
    return f"{cell.value:.{decimals}f} [{cell.low:.{decimals}f}, {cell.high:.{decimals}f}]"
