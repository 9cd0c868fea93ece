"""The Qwen Technical Report's tables (arXiv 2309.16609, September 2023) as typed rows.

The values are in `data/qwen_report_tables.yaml`, with the page each table was read from. Where the report contradicts
itself the table's value stays, and a note gives the other one. Tables 2, 5, 6 and 9 for now.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class PaperRow:
    """One cell of a table: `value` in the table's unit (per cent), None where the report prints "-"."""

    model: str
    params: str | None
    """As printed ("1.8B"); None where the report does not say."""
    value: float | None

    @property
    def billions(self) -> float | None:
        """Parameters in thousands of millions."""
        return None if self.params is None else float(self.params.removesuffix("B"))

    @property
    def name(self) -> str:
        return self.model if self.params is None else f"{self.model} {self.params}"


@dataclass(frozen=True)
class PaperColumn:
    """How the numbers of a column were made."""

    shots: int
    protocol: str
    """`base` or `chat`, as in a task."""
    unit: str


def rows(table: str, column: str) -> list[PaperRow]:
    """The rows of a column ("table_2", "MMLU") in the table's order. Raises LookupError if there is no such column."""
    column_of(table, column)
    return [PaperRow(row["model"], row["params"], row["values"][column]) for row in _table(table)["rows"]]


def column_of(table: str, column: str) -> PaperColumn:
    """Shots, protocol and unit of a column. Raises LookupError if there is no such column."""
    columns = _table(table)["columns"]
    if column not in columns:
        raise LookupError(f"the report's {label(table)} has no column {column!r}; it has {', '.join(columns)}")
    return PaperColumn(**columns[column])


def notes(table: str, column: str, models: set[str]) -> list[str]:
    """What a reader of these cells must know: disagreements between sources, and what a row is not."""
    return [
        note["text"]
        for note in _table(table)["notes"]
        if (note["columns"] is None or column in note["columns"])
        and (note["models"] is None or models & set(note["models"]))
    ]


def label(table: str) -> str:
    """What a table is called in print, as in Table 2."""
    return table.replace("_", " ").capitalize()


def _table(table: str) -> dict[str, Any]:
    tables = _data()["tables"]
    if table not in tables:
        raise LookupError(f"no {table!r} among the report's tables kept here: {', '.join(tables)}")
    found: dict[str, Any] = tables[table]
    return found


@cache
def _data() -> dict[str, Any]:
    import yaml

    text = (files("reports") / "data" / "qwen_report_tables.yaml").read_text(encoding="utf-8")
    data: dict[str, Any] = yaml.safe_load(text)
    return data
