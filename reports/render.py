"""From a run folder to plain tables: what `report.md`, `report.html` and the terminal have in common.

Everything is read from the run; nothing is computed but the choice of what to show. Shares are per cent here, as the
report prints them; `results.json` has fractions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.records import LEAST_SPREAD, MICRO, Estimate, Run, TaskResult
from reports import paper

OWN_MODELS = {
    **{f"table_{number}": "Qwen" for number in (2, 13, 14, 15, 16, 17)},
    **{f"table_{number}": "Qwen-Chat" for number in (5, 6, 7, 8, 9)},
    "table_10": "Code-Qwen-Chat",
    "table_11": "Code-Qwen-Chat",
    "table_12": "Math-Qwen-Chat",
}
"""The report's own rows of each table that has scores of its models."""
SIZES = ("1.8B", "7B", "14B")
DECIMALS = {"share": 1, "mean": 3, "perplexity": 2}
SMALL = 14.0
"""Other models are shown up to the report's own largest size, in thousands of millions of parameters."""


@dataclass(frozen=True)
class Measure:
    """A number of a run with its 95 % interval, NaN where too few values give none; shares in per cent."""

    name: str
    kind: str
    """`share`, `mean` or `perplexity`, as in a task's `measures`."""
    n: int
    value: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """The value in print."""
        return f"{self._number(self.value)} %" if self.kind == "share" else self._number(self.value)

    @property
    def interval(self) -> str:
        """The interval in print."""
        return interval(self.low, self.high, self._number)

    def _number(self, value: float) -> str:
        return f"{value:.{DECIMALS[self.kind]}f}" if abs(value) < 1000 else f"{value:,.0f}"


def measure(name: str, kind: str, estimate: Estimate) -> Measure:
    """An estimate as it is shown."""
    scale = 100 if kind == "share" else 1
    low, high = (estimate.low, estimate.high) if kind == "share" else bounds(estimate.n, estimate.low, estimate.high)
    return Measure(name, kind, estimate.n, scale * estimate.value, scale * low, scale * high)


def bounds(n: int, low: float, high: float) -> tuple[float, float]:
    """A bootstrap's interval, NaN where it is of too few values to be shown."""
    return (low, high) if n >= LEAST_SPREAD else (math.nan, math.nan)


def interval(low: float, high: float, text: Callable[[float], str]) -> str:
    """An interval in print."""
    return "–" if math.isnan(low) else f"{text(low)} – {text(high)}"


@dataclass(frozen=True)
class Row:
    """One task of a run beside the report's column."""

    task: str
    title: str
    score: Measure
    """The task's metric."""
    more: tuple[Measure, ...]
    """Its further measures."""
    n: int
    items: int | None
    """Size of the whole data set, if the run recorded it."""
    unextracted: int
    timeouts: float
    """Share of the answers that ran out of time, in per cent."""
    column: str | None
    """The report's column in print ("Table 5, GSM8K 0-shot"), None if the report has none for this protocol."""
    qwen: tuple[paper.PaperRow | None, ...]
    """The report's own models at SIZES, None where it has none of a size; empty if there is no column."""
    other: paper.PaperRow | None
    """The best of the report's other models up to SMALL."""
    notes: tuple[int, ...]
    """Numbers of this row's footnotes, from 1."""


@dataclass(frozen=True)
class Summary:
    """The table of a run: a row per task and one per further measure, and footnotes that say what keeps a row from
    being comparable."""

    rows: tuple[Row, ...]
    footnotes: tuple[str, ...]
    header: tuple[str, ...] = (
        *("Task", "Metric", "n", "Score", "95 % interval", "Not extracted", "Timeouts %"),
        *("The report's column", "Qwen 1.8B", "Qwen 7B", "Qwen 14B", "Best other up to 14B", "Notes"),
    )

    def cells(self) -> list[tuple[str, ...]]:
        """The table as text, one tuple per line in the order of `header`, for a terminal or Markdown."""
        lines = []
        for row in self.rows:
            lines.append(
                (
                    row.task,
                    row.score.name,
                    count(row),
                    row.score.text,
                    row.score.interval,
                    str(row.unextracted),
                    f"{row.timeouts:.1f}",
                    row.column or "none",
                    *[score(cell) for cell in row.qwen or (None,) * len(SIZES)],
                    f"{score(row.other)} ({row.other.name})" if row.other else "–",
                    ", ".join(map(str, row.notes)),
                )
            )
            for extra in row.more:
                shown = ("", extra.name, f"{extra.n:,}", extra.text, extra.interval)
                lines.append((*shown, *[""] * (len(self.header) - len(shown))))
        return lines


def summary_table(run: Run) -> Summary:
    """The rows and footnotes of a finished run. Raises RunError if it has no results yet."""
    tasks = run.results
    specs = run.spec.get("tasks", {})
    footnotes: list[str] = []
    rows = []
    for name in [name for name in specs if name in tasks] + sorted(name for name in tasks if name not in specs):
        rows.append(_row(name, run, footnotes))
    return Summary(tuple(rows), tuple(footnotes))


def chief(spec: Mapping[str, Any], result: TaskResult) -> str:
    """The number that stands for a task: its metric, or the first there is where no sample has that."""
    metric: str = spec.get("metric", "")
    return metric if metric in result.metrics else next(iter(result.metrics))


def _row(name: str, run: Run, footnotes: list[str]) -> Row:
    spec, model, result = run.spec.get("tasks", {}).get(name, {}), run.spec.get("model", {}), run.results[name]
    metric = chief(spec, result)
    wanted = spec.get("metric") or metric
    kinds = spec.get("measures", {})
    shown = {
        its: measure(its, kinds.get(its.removesuffix(MICRO), "share"), estimate)
        for its, estimate in result.metrics.items()
    }
    absent = metric != wanted
    cell = None if absent else spec.get("report")
    qwen: tuple[paper.PaperRow | None, ...] = ()
    other: paper.PaperRow | None = None
    column = None
    notes = caveats(run, name)
    if absent:
        notes.append(f"No item of this run has the task's metric, {wanted}: {metric} stands in its place.")
    elif cell is None:
        notes.append("The report has no number for this protocol.")
    else:
        try:
            qwen, other = _neighbours(cell["table"], cell["column"])
            column = f"{paper.label(cell['table'])}, {cell['column']}"
            notes += differences(cell["table"], cell["column"], spec, model)
            notes += paper.notes(cell["table"], cell["column"], {row.model for row in (*qwen, other) if row})
        except LookupError as error:  # a task of someone else's may name a column that is not there
            notes.append(f"{error.args[0][0].upper()}{error.args[0][1:]}.")
    footnotes.extend(note for note in notes if note not in footnotes)
    return Row(
        task=name,
        title=spec.get("title") or name,
        score=shown.pop(metric),
        more=tuple(shown.values()),
        n=result.n,
        items=spec.get("items"),
        unextracted=result.outcomes.get("unextracted", 0),
        timeouts=100 * result.outcomes.get("timeout", 0) / max(1, sum(result.outcomes.values())),
        column=column,
        qwen=qwen,
        other=other,
        notes=tuple(sorted(footnotes.index(note) + 1 for note in notes)),
    )


def _neighbours(table: str, column: str) -> tuple[tuple[paper.PaperRow | None, ...], paper.PaperRow | None]:
    """The report's own models by size, and the best other one that is no larger."""
    rows, ours = paper.rows(table, column), OWN_MODELS.get(table)
    own = {row.params: row for row in rows if row.model == ours}
    others = [row for row in rows if row.model != ours and (row.billions or math.inf) <= SMALL]
    scored = [(row.value, row) for row in others if row.value is not None]
    best = min if paper.column_of(table, column).better == "lower" else max
    return tuple(own.get(size) for size in SIZES), best(scored, key=lambda pair: pair[0])[1] if scored else None


def caveats(run: Run, task: str) -> list[str]:
    """What keeps a task's number from being the whole data set's, asked and answered as the report did."""
    spec, model, result = run.spec.get("tasks", {}).get(task, {}), run.spec.get("model", {}), run.results[task]
    notes = _limits(result.n, spec)
    if spec.get("draws", 1) > 1:
        answers = f"{spec['fewest_draws']} to " if spec.get("fewest_draws", spec["draws"]) < spec["draws"] else ""
        notes.append(f"{answers}{spec['draws']} answers to each problem; the report has one greedy answer.")
    if "scored" in run.spec:
        kind = "a file of completions" if model.get("backend") == "completions" else "the replies of an earlier run"
        notes.append(f"Judged from {kind}; no model was asked.")
    if missing := result.outcomes.get("not_installed", 0):
        notes.append(f"{missing:,} answers could not be judged here: a compiler or library is not installed.")
    return notes


def _limits(n: int, spec: Mapping[str, Any]) -> list[str]:
    """Says so when the run did not see the whole data set."""
    items, filter_, limit = spec.get("items"), spec.get("filter"), spec.get("limit")
    whole = n >= items if items is not None else limit is None and not filter_
    if whole:
        return []
    chosen = [f"filter {key}={','.join(values)}" for key, values in sorted((filter_ or {}).items())]
    chosen += [f"limit {limit}"] if limit is not None else []
    of = f"{n:,} of {items:,} items" if items is not None else f"{n:,} items, not the whole data set"
    return [f"Only {of}{' (' + ', '.join(chosen) + ')' if chosen else ''}; the report used all."]


def differences(table: str, column: str, spec: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
    """What else keeps our number and the report's from being the same measurement."""
    notes = []
    name = str(model.get("name", "unknown"))
    theirs = paper.column_of(table, column)
    before, _, behind = OWN_MODELS.get(table, "Qwen").partition("Qwen")
    if not re.fullmatch(rf"(.*/)?{before}qwen-?(1[._]8b|7b|14b){behind}", name, re.IGNORECASE):
        notes.append(
            f"Another model: this run is of {name}, the report's rows are of the first Qwen (base in Tables 2, 3 and "
            "13 to 17, Qwen-Chat and its relatives in the others)."
        )
    quantisation = model.get("quantisation")
    if quantisation and str(quantisation).lower() != "none":
        notes.append(f"Quantised weights ({quantisation}); the report names no quantisation for its rows.")
    ours = spec.get("shots"), spec.get("protocol")
    if None not in (*ours, theirs.shots, theirs.protocol) and ours != (theirs.shots, theirs.protocol):
        notes.append(
            f"Not the report's protocol: {ours[0]}-shot, {ours[1]} here, {theirs.shots}-shot, {theirs.protocol} in "
            f"{paper.label(table)}."
        )
    return notes


def score(cell: paper.PaperRow | None) -> str:
    """A value as the report prints it."""
    return "–" if cell is None or cell.value is None else f"{cell.value:.1f}"


def count(row: Row) -> str:
    """How many items were judged, of how many."""
    return f"{row.n:,}" if row.items is None or row.items == row.n else f"{row.n:,} of {row.items:,}"


def sections(tree: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """A nested dict as named tables of (dotted name, value): one table per top-level dict, the rest under "general"."""
    tables: dict[str, list[tuple[str, str]]] = {}
    for key, value in tree.items():
        name, pairs = (key, flat(value)) if isinstance(value, Mapping) else ("general", [(key, _text(value))])
        if pairs:
            tables.setdefault(name, []).extend(pairs)
    return {name: tables[name] for name in sorted(tables, key=lambda name: name != "general")}


def flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """(Dotted name, value) of every leaf, in order."""
    pairs: list[tuple[str, str]] = []
    for key, value in tree.items():
        pairs += flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", _text(value))]
    return pairs


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e6 else f"{value:,.1f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return ", ".join(map(_text, value)) if isinstance(value, list | tuple) else "–" if value is None else str(value)
