"""A run beside one model's numbers in the report: differences of two samples that were never paired."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.records import Run
from reports import paper

HEADER = ("Task", "n", "Here", "The report's", "Difference", "95 % interval", "Column")


@dataclass(frozen=True)
class Against:
    """One task: our number less the report's, in per cent. The interval is that of our number alone."""

    task: str
    n: int
    value: float
    low: float
    high: float
    theirs: float
    column: str

    def cells(self) -> tuple[str, ...]:
        """In the order of HEADER."""
        change, low, high = (f"{ours - self.theirs:+.1f}" for ours in (self.value, self.low, self.high))
        return (
            self.task,
            f"{self.n:,}",
            f"{self.value:.1f}",
            f"{self.theirs:.1f}",
            change,
            f"{low} – {high}",
            self.column,
        )


def parse(text: str) -> tuple[str, str]:
    """Table and model of "report:table_2:Qwen-7B". Raises LookupError with what there is."""
    kind, _, rest = text.partition(":")
    table, _, model = rest.partition(":")
    if kind != "report" or not table or not model:
        raise LookupError(f"{text!r} is not report:TABLE:MODEL, such as report:table_2:Qwen-7B")
    column = paper.columns(table)[0]
    names = [row.name for row in paper.rows(table, column)]
    found = [name for name in names if _plain(name) == _plain(model)]
    if not found:
        raise LookupError(f"the report's {paper.label(table)} has no model {model!r}; it has {', '.join(names)}")
    return table, found[0]


def against(run: Run, table: str, model: str) -> tuple[list[Against], list[str]]:
    """The run's tasks that reproduce a column of this table, and why the others are left out."""
    found, left = [], []
    for name, result in run.results.items():
        spec = run.spec["tasks"][name]
        cell = spec.get("report")
        if cell is None or cell["table"] != table:
            left.append(f"{name}: {paper.label(table)} has no column of this protocol.")
            continue
        theirs = next(row.value for row in paper.rows(table, cell["column"]) if row.name == model)
        if theirs is None:
            left.append(f"{name}: the report has no number of {model} in {cell['column']}.")
            continue
        if spec["metric"] not in result.metrics:
            left.append(f"{name}: no item of this run has {spec['metric']}.")
            continue
        ours = result.metrics[spec["metric"]]
        values = (100 * ours.value, 100 * ours.low, 100 * ours.high)
        found.append(Against(name, ours.n, *values, theirs, cell["column"]))
    return found, left


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "-", name).lower()
