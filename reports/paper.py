"""The Qwen Technical Report's tables and the numbers of its figures (arXiv 2309.16609, September 2023) as typed rows.

`data/` has a file for each, with the page it was read from. Where the report contradicts itself every place keeps its
own value, and a note gives the other one. Figures 2 and 3 print no numbers: theirs were read off the drawing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas

NAMES = (*(f"table_{number}" for number in range(1, 18)), *(f"figure_{number}" for number in (2, 3, 4)))


@dataclass(frozen=True)
class PaperRow:
    """One cell of a table: `value` in the column's unit, None where the report prints "-"."""

    model: str
    params: str | None
    """As printed ("1.8B"); None where the report does not say."""
    value: float | None

    @property
    def billions(self) -> float | None:
        """Parameters in thousands of millions."""
        return None if self.params is None else billions(self.params)

    @property
    def name(self) -> str:
        return self.model if self.params is None else f"{self.model} {self.params}"


@dataclass(frozen=True)
class PaperColumn:
    """How the numbers of a column were made, and how they are printed."""

    shots: int | None = None
    """None where the report does not say, or where it has no meaning."""
    protocol: str | None = None
    """`base` or `chat`, as in a task."""
    unit: str = ""
    better: Literal["higher", "lower"] | None = "higher"
    decimals: int = 1


@dataclass(frozen=True)
class PaperTable:
    """A table or figure: `rows` hold a value, or None, for every column."""

    name: str
    title: str
    source: str
    columns: Mapping[str, PaperColumn]
    rows: tuple[Mapping[str, Any], ...]
    """{"model", "params", "group" (where the report has groups of rows), "values": {column: number or None}}."""
    notes: tuple[Mapping[str, Any], ...]


def table(name: str) -> PaperTable:
    """One of NAMES. Raises LookupError that lists them."""
    if name not in NAMES:
        raise LookupError(f"no {name!r} among the report's tables and figures kept here: {', '.join(NAMES)}")
    return _read(name)


def frame(name: str) -> pandas.DataFrame:
    """A row per model: model, params, group, then the columns; NaN where the report prints "-"."""
    import pandas

    found = table(name)
    records = [
        {"model": row["model"], "params": row["params"], "group": row.get("group"), **row["values"]}
        for row in found.rows
    ]
    return pandas.DataFrame(records).astype(dict.fromkeys(found.columns, "float64"))


def rows(name: str, column: str) -> list[PaperRow]:
    """The rows of a column ("table_2", "MMLU") in the table's order. Raises LookupError if there is no such column."""
    column_of(name, column)
    return [PaperRow(row["model"], row["params"], row["values"][column]) for row in table(name).rows]


def columns(name: str) -> list[str]:
    """A table's columns in its order. Raises LookupError if there is no such table."""
    return list(table(name).columns)


def column_of(name: str, column: str) -> PaperColumn:
    """What is known of a column. Raises LookupError if there is no such column."""
    found = table(name).columns
    if column not in found:
        raise LookupError(f"the report's {label(name)} has no column {column!r}; it has {', '.join(found)}")
    return found[column]


def notes(name: str, column: str, models: set[str]) -> list[str]:
    """What a reader of these cells must know: disagreements between sources, and what a row is not."""
    return [
        note["text"]
        for note in table(name).notes
        if (note["columns"] is None or column in note["columns"])
        and (note["models"] is None or models & set(note["models"]))
    ]


def label(name: str) -> str:
    """What a table is called in print, as in Table 2."""
    return name.replace("_", " ").capitalize()


def billions(params: str) -> float:
    """Thousands of millions of parameters, of a size as printed: "7B v1.1" is 7, "4.5M" is 0.0045."""
    found = re.match(r"([\d.]+)([BM])", params)
    if found is None:
        raise ValueError(f"{params!r} is no size such as 1.8B")
    return float(found[1]) / (1 if found[2] == "B" else 1000)


def size(parameters: int) -> str:
    """A number of parameters as the report prints sizes, and in millions below a tenth of a thousand millions."""
    return f"{parameters / 1e9:.3g}B" if parameters >= 1e8 else f"{parameters / 1e6:.3g}M"


@cache
def _read(name: str) -> PaperTable:
    import yaml

    data = yaml.safe_load((files("reports") / "data" / f"{name}.yaml").read_text(encoding="utf-8"))
    return PaperTable(
        name=name,
        title=data["title"],
        source=data["source"],
        columns={column: PaperColumn(**facts) for column, facts in data["columns"].items()},
        rows=tuple(data["rows"]),
        notes=tuple(data["notes"]),
    )
