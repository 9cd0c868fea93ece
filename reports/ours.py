"""Rows of the report's tables: what a run, a sweep, a tokenizer report or a win rate has for their columns."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records import Run, RunError
from reports import ablation, paper, render
from reports.cells import CELLS

if TYPE_CHECKING:
    import pandas

LONG_PPL = "long-ppl"
TOKENIZERS, WIN_RATE = "tokenizers.json", "win_rate.json"
PLACES = 4
"""Decimals of our numbers: enough for every reader, and read back from CSV to the last bit."""
BASELINE, QWEN = "XLM-R", "qwen"
"""Figure 3's, and what `harness tokenizer-report` calls Qwen's own tokenizer."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number in its column's unit; the interval is None where none was made."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    task: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One model, or one cell of a sweep."""

    source: str
    """The folder's name."""
    model: str
    params: str | None = None
    """The size in print, None where it is not known."""
    group: str | None = None
    cells: Mapping[str, Cell]

    @property
    def billions(self) -> float | None:
        """Thousands of millions of parameters."""
        return None if self.params is None else paper.billions(self.params)


def our_rows(paths: Sequence[Path], name: str) -> list[TableRow]:
    """The folders' rows of a table or figure; one model's are told apart by folder, as `run_names` has folders.

    Raises RunError if none of them has a number for it.
    """
    folders = [path.resolve().name for path in paths]
    if len(set(folders)) < len(folders):
        folders = list(map(str, paths))
    found = [(row, folder) for path, folder in zip(paths, folders, strict=True) for row in _rows(path, name)]
    if not found:
        columns = ", ".join(paper.columns(name))
        tasks = sorted({source.task for sources in CELLS.get(name, {}).values() for source in sources})
        what = f"run one of {', '.join(tasks)}" if tasks else "no task here measures it"
        raise RunError(
            f"{', '.join(map(str, paths))}: no number for the report's {paper.label(name)} ({columns}); {what}"
        )
    named = Counter(row.model for row, _ in found)
    return [row if named[row.model] == 1 else replace(row, model=f"{row.model}, {folder}") for row, folder in found]


def _rows(path: Path, name: str) -> list[TableRow]:
    if ablation.is_sweep(path):
        cells = ablation.read(path, "cells")
        return _of_sweep(path, cells) if name == "table_3" and "length" in cells else []
    if (path / TOKENIZERS).is_file():
        return _of_tokenizers(path) if name == "figure_3" else []
    if (path / WIN_RATE).is_file():
        return _of_win_rate(path) if name == "figure_4" else []
    run = Run(path)
    row = _of_run(run, name)
    return [row] if row.cells else []


def _of_run(run: Run, name: str) -> TableRow:
    cells: dict[str, Cell] = {}
    results, specs = run.results, run.spec["tasks"]
    for column, sources in CELLS.get(name, {}).items():
        for source in sources:
            if source.task not in results:
                continue
            spec = specs[source.task]
            found = source.find(results[source.task], spec["metric"])
            if found is None:
                continue
            kind = source.kind(spec.get("measures", {}), spec["metric"])
            shown = render.measure(column, kind, found)
            notes = [
                *render.caveats(run, source.task),
                *render.differences(name, column, spec, run.spec["model"]),
                *([source.remark] if source.remark else []),
                *([f"Version {spec['version']} of {source.task}."] if spec.get("version", 1) != 1 else []),
            ]
            cells[column] = Cell(
                value=round(shown.value, PLACES),
                low=_bound(shown.low),
                high=_bound(shown.high),
                n=found.n,
                task=source.task,
                notes=tuple(notes),
            )
            break
    environment = run.environment if (run.path / "environment.json").is_file() else {}
    parameters = environment.get("parameters")
    return TableRow(
        source=run.path.resolve().name,
        model=str(run.spec["model"]["name"]),
        params=paper.size(parameters) if isinstance(parameters, int) else None,
        cells=cells,
    )


def _bound(number: float) -> float | None:
    return None if math.isnan(number) else round(number, PLACES)


def _of_sweep(path: Path, cells: pandas.DataFrame) -> list[TableRow]:
    """A row per cell of a long-ppl sweep, with the lengths that the table has."""
    rows = []
    for cell, own in cells.dropna(subset=["perplexity"]).groupby("cell", sort=False):  # failed cells have no numbers
        lines = [line for line in own.to_dict("records") if line.get("task", LONG_PPL) == LONG_PPL]
        found = {
            str(line["length"]): Cell(
                value=round(line["perplexity"], PLACES),
                low=_bound(line["low"]),
                high=_bound(line["high"]),
                n=int(line["documents"]),
                task=LONG_PPL,
                notes=("Of other documents than the report's; compare the course, not the height.",),
            )
            for line in lines
            if str(line["length"]) in paper.columns("table_3")
        }
        if found:
            model = f"{Path(lines[0]['model']).name}, {cell}" if "model" in lines[0] else str(cell)
            rows.append(TableRow(source=path.resolve().name, model=model, cells=found))
    return rows


def _of_tokenizers(path: Path) -> list[TableRow]:
    """Rows on the report's scale: relative to XLM-R, or else brought there by Qwen's tokenizer, which both measured."""
    whole = _json(path / TOKENIZERS)
    ratios: dict[str, dict[str, float]] = {}
    for row in whole["rows"]:
        if row["text"] in paper.columns("figure_3"):
            ratios.setdefault(row["tokenizer"], {})[row["text"]] = row["ratio"]
    notes = ("Of other texts than the report's million documents per language.",)
    if whole["baseline"].casefold() == BASELINE.casefold():
        ratios.pop(whole["baseline"], None)
        return [_tokenizer(path, name, its, notes) for name, its in ratios.items()]
    if QWEN not in ratios:
        raise RunError(
            f"{path / TOKENIZERS}: relative to {whole['baseline']}, and Figure 3 to {BASELINE}; measure {QWEN} too, or "
            "give tokenizer-report --tokenizer path/to/xlm-r --baseline xlm-r"
        )
    qwen = ratios.pop(QWEN)
    theirs = next(row["values"] for row in paper.table("figure_3").rows if row["model"] == "Qwen")
    said = (
        f"Measured relative to Qwen's tokenizer and multiplied by Qwen's value in Figure 3: {BASELINE}'s is not here."
    )
    return [
        _tokenizer(
            path,
            f"{name} by way of Qwen's",
            {text: ratio / qwen[text] * theirs[text] for text, ratio in its.items()},
            (*notes, said),
        )
        for name, its in ratios.items()
    ]


def _tokenizer(path: Path, name: str, ratios: Mapping[str, float], notes: tuple[str, ...]) -> TableRow:
    cells = {
        text: Cell(value=round(ratio, PLACES), task="tokenizer-report", notes=notes) for text, ratio in ratios.items()
    }
    return TableRow(source=path.resolve().name, model=name, cells=cells)


def _of_win_rate(path: Path) -> list[TableRow]:
    whole = _json(path / WIN_RATE)
    columns = {column.casefold(): column for column in paper.columns("figure_4")}
    notes = (
        f"Against {whole['opponent']}, judged by {whole.get('judge', 'people')}; the report's rows "
        "are against GPT-3.5, by people.",
    )
    cells = {}
    for category, entry in whole["categories"].items():
        for kind in ("win", "tie", "loss"):
            column = columns.get(f"{category}, {kind}".casefold())
            if column is not None:
                value, low, high = (round(100 * entry[kind][part], PLACES) for part in ("value", "low", "high"))
                cells[column] = Cell(value=value, low=low, high=high, n=entry["n"], task="win-rate", notes=notes)
    name = f"{Path(whole['answers']).name.removesuffix('.jsonl')} against {whole['opponent']}"
    return [TableRow(source=path.resolve().name, model=name, cells=cells)] if cells else []


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path}: not JSON ({error}); write it again by the command that made it") from error
