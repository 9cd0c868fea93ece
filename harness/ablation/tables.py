"""A finished sweep as tables: cells.csv, documents.csv, positions.csv and differences.csv in its folder.

Losses are nats a token, perplexities their exponentials; intervals are of 95 %, over documents (or samples).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.ablation.sweep import Done
from harness.ablation.units import Unit
from harness.comparison import Pair, paired
from harness.pairing import value_of
from harness.records import Estimate, Run, SampleRecord, as_csv, write_atomic
from tasks.api import TaskError

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """A cell at a length: its number, its samples, and what they took."""

    cell: str
    switches: Mapping[str, str]
    length: int | None
    task: str
    metric: str
    kind: str
    mean: Literal["items", "groups"]
    estimate: Estimate
    more: Mapping[str, Estimate]
    """Further measures."""
    records: Sequence[SampleRecord]
    seconds: float | None
    peak_mb: float | None

    @property
    def values(self) -> dict[str, float]:
        """By sample (document); losses where the metric is a perplexity."""
        return {record.id: value for record in self.records if (value := value_of(record, self.metric)) is not None}


def cell_results(done: Done) -> list[CellResult]:
    """All that was computed, in the order of the cells and then of lengths."""
    found = [one for unit, run in done.runs for one in _of_run(done, unit, run)]
    order = {cell.name: number for number, cell in enumerate(done.sweep.cells)}
    return sorted(found, key=lambda one: (order[one.cell], one.length or 0))


def _of_run(done: Done, unit: Unit, run: Run) -> Iterator[CellResult]:
    task = unit.prepared.tasks[0].name
    spec, result = run.spec["tasks"][task], run.results[task]
    metric, *more = result.metrics
    records = list(run.records(task))
    whole = run.environment["judged"] == len(records)  # else these are the numbers of the last session
    for cell, length in unit.places:
        its = [record for record in records if length is None or record.group == str(length)]
        if unit.one_reading:
            spent = [record.detail for record in its]
            seconds: float | None = math.fsum(detail["seconds"] for detail in spent)
            peaks = [detail["peak_mb"] for detail in spent]
            peak = None if None in peaks else max(peaks)
        else:
            seconds = run.environment["seconds_by_stage"]["judge"] if whole else None
            peak = run.environment["peak_mb"] if whole else None
        yield CellResult(
            cell=cell,
            switches=done.sweep.switches[cell],
            length=length,
            task=task,
            metric=metric,
            kind=spec["measures"].get(metric, "share"),
            mean=spec["mean"],
            estimate=result.groups[str(length)] if unit.one_reading else result.metrics[metric],
            more={} if unit.one_reading else {name: result.metrics[name] for name in more},
            records=its,
            seconds=seconds,
            peak_mb=peak,
        )


def write(folder: Path, done: Done, base: str) -> None:
    """Write the tables. `base` is the cell that differences are taken against."""
    found = cell_results(done)
    tables = {"cells.csv": cell_rows(found), "differences.csv": list(differences(found, base))}
    tables["documents.csv"] = list(document_rows(found))
    tables["positions.csv"] = list(position_rows(found))
    for name, rows in tables.items():
        if rows:
            write_atomic(folder / name, as_csv(rows))
        else:
            (folder / name).unlink(missing_ok=True)


def check_base(base: str, names: Sequence[str]) -> None:
    """Raises TaskError for a base that is no cell."""
    if base not in names:
        raise TaskError(f"--base: no cell is called {base!r}; there are {', '.join(names)}")


def cell_rows(found: Sequence[CellResult]) -> list[Row]:
    """One row per cell and length."""
    rows = []
    for one in found:
        row: Row = {"cell": one.cell, **one.switches}
        if one.length is not None:
            row["length"] = one.length
        value = one.estimate
        if one.kind == "perplexity" and one.length is not None:
            losses = list(one.values.values())
            row |= {"documents": value.n, "nll": math.fsum(losses) / len(losses), "perplexity": value.value}
        else:
            row |= {"metric": one.metric, "kind": one.kind, "n": value.n, "value": value.value}
        row |= {"low": value.low, "high": value.high}
        for name, extra in one.more.items():
            row |= {name: extra.value, f"{name} low": extra.low, f"{name} high": extra.high}
        rows.append(row | {"seconds": one.seconds, "peak_mb": one.peak_mb})
    return rows


def document_rows(found: Sequence[CellResult]) -> Iterator[Row]:
    """The loss of each document (or sample) that has one, for measures that are perplexities."""
    for one in found:
        if one.kind == "perplexity":
            for record in one.records:
                if one.metric in record.scores:
                    depth = {"depth": record.detail["depth"]} if "depth" in record.detail else {}
                    plain = record.id.removeprefix(f"{one.task}/").removesuffix(f"/{one.length}")
                    name, nll = record.detail.get("document", plain), record.scores[one.metric]
                    yield {"cell": one.cell, "length": one.length, "document": name, **depth, "nll": nll}


def position_rows(found: Sequence[CellResult]) -> Iterator[Row]:
    """The mean loss over documents by place in the text, counted in tokens from its beginning."""
    for one in found:
        losses: defaultdict[int, list[float]] = defaultdict(list)
        for record in one.records:
            detail = record.detail
            if "losses" in detail:
                for number, loss in enumerate(detail["losses"]):
                    losses[number * detail["bin"]].append(loss)
            elif "depth" in detail and one.length is not None and one.metric in record.scores:
                losses[round(detail["depth"] * one.length)].append(record.scores[one.metric])
        for position, values in sorted(losses.items()):
            nll = math.fsum(values) / len(values)
            yield {"cell": one.cell, "length": one.length, "position": position, "nll": nll}


def differences(found: Sequence[CellResult], base: str) -> Iterator[Row]:
    """Each cell less the base at the same length, over the samples of both; of perplexities in nats a token."""
    bases = {one.length: one for one in found if one.cell == base}
    for one in found:
        other = bases.get(one.length)
        if one.cell == base or other is None:
            continue
        ours, theirs = one.values, other.values
        groups = {record.id: record.group for record in one.records}
        pairs = [Pair(id_, groups[id_], theirs[id_], ours[id_]) for id_ in ours if id_ in theirs]
        if not pairs or one.metric != other.metric:
            continue
        its = paired(pairs, "mean" if one.kind == "perplexity" else one.kind, one.mean)
        row: Row = {"cell": one.cell, "base": base}
        if one.length is not None:
            row["length"] = one.length
        row |= {"metric": "nll" if one.kind == "perplexity" else one.metric, "n": its.n}
        row |= {"difference": its.value, "low": its.low, "high": its.high, "p": its.p}
        yield row | {"gained": its.gained, "lost": its.lost}
