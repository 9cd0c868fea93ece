"""From judged samples to a task's entry in `results.json`: its metric, further measures, sets and groups.

What is computed of them is in `harness.statistics`; here is which samples count, and which kind of mean is taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from harness.records import MICRO, Estimate, SampleRecord
from harness.statistics import accuracy, accuracy_by_group, exponential, mean_of, mean_of_groups, pass_at_k, wilson
from tasks.api import OUTCOME_METRICS, Kind

LADDER = (1, 10, 100)
"""Values of k that are reported, as far as there are answers."""
DRAW_MARK = "#"
"""Between a problem's id and the number of the answer, where a problem is answered more than once."""
UNCOUNTED = "not_installed"
"""The outcome that is neither right nor wrong."""


@dataclass(frozen=True)
class _Unit:
    """What is counted once: a problem with the values of its answers, of which there is one but for pass@k."""

    group: str | None
    values: tuple[float, ...]


def summarise(
    records: Iterable[SampleRecord],
    metric: str,
    draws: int = 1,
    *,
    measures: Mapping[str, Kind] | None = None,
    mean: Literal["items", "groups"] = "items",
    sets: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """{"n", "metrics": {name: estimate}, "outcomes"}, and "sets" and "groups" if there are any.

    The metric comes first, where any sample has it, then what `measures` names, each over the samples that have it;
    `measures`, `mean` and `sets` as in `tasks.api.Task`. Where the metric is a mean over groups, the mean over all
    items follows it, its name ending in MICRO. A share of one answer per problem has the interval of `accuracy` or
    `accuracy_by_group`, everything else a bootstrap. With several `draws` a problem, ids end in DRAW_MARK and a number,
    n counts problems, "pass@1" becomes pass@k, and any other number is first averaged over a problem's answers. Groups
    and sets are of the metric (pass@1 of pass@k); a group's share has Wilson's interval, of all its answers. Samples
    that could not be judged here count in "outcomes" only. Nothing in it depends on time or order. Raises ValueError
    where no sample has any of them.
    """
    rows = sorted(_distinct(records), key=lambda record: record.id)
    judged = [row for row in rows if row.outcome != UNCOUNTED]
    kinds: dict[str, Kind] = dict(measures or {})
    kind = kinds.get(metric, "share")
    if metric in OUTCOME_METRICS:
        units = _units([(row, float(row.correct)) for row in judged], draws)
    else:
        units = _units([(row, row.scores[metric]) for row in rows if metric in row.scores], draws)
    metrics = {metric: _estimate(units, kind, mean, draws)} if units else {}
    if units and mean == "groups":
        metrics[metric + MICRO] = _estimate(units, kind, "items", draws)
    if units and metric == "pass@1" and draws > 1:
        most = min(len(unit.values) for unit in units)
        metrics |= {f"pass@{k}": _estimate(units, kind, mean, draws, k) for k in LADDER[1:] if k <= most}
    for name, its in kinds.items():
        scored = [(row, row.scores[name]) for row in rows if name in row.scores]
        if name != metric and scored:
            metrics[name] = _estimate(_units(scored, draws), its, "items", draws)
    if not metrics:
        raise ValueError("no items: a number of nothing has no value")
    entry: dict[str, Any] = {
        "n": len(_units([(row, 0.0) for row in judged], draws)),
        "metrics": {name: asdict(estimate) for name, estimate in metrics.items()},
        "outcomes": dict(sorted(Counter(row.outcome for row in rows).items())),
    }
    found: dict[str, dict[str, Any]] = {"sets": {}, "groups": {}}
    for name, names in (sets or {}).items():
        if within := [unit for unit in units if unit.group in names]:
            found["sets"][name] = asdict(_estimate(within, kind, mean, draws))
    for group in sorted({unit.group for unit in units if unit.group is not None}):
        found["groups"][group] = asdict(_of_group([unit for unit in units if unit.group == group], metric, kind, draws))
    return entry | {name: estimates for name, estimates in found.items() if estimates}


def _estimate(units: Sequence[_Unit], kind: Kind, over: Literal["items", "groups"], draws: int, k: int = 1) -> Estimate:
    groups = [unit.group for unit in units]
    if kind == "share" and draws == 1:
        flags = [unit.values[0] == 1 for unit in units]
        return accuracy(flags, groups) if over == "items" else accuracy_by_group(flags, _named(groups))
    if kind == "share":
        values = [pass_at_k(len(unit.values), int(sum(unit.values)), k) for unit in units]
    else:
        values = [sum(unit.values) / len(unit.values) for unit in units]
    estimate = mean_of(values) if over == "items" else mean_of_groups(values, _named(groups))
    return exponential(estimate) if kind == "perplexity" else estimate


def _of_group(units: Sequence[_Unit], metric: str, kind: Kind, draws: int) -> Estimate:
    if kind != "share":
        return _estimate(units, kind, "items", draws)
    flags = [value == 1 for unit in units for value in unit.values]
    return wilson(sum(flags), len(flags))


def _units(scored: Sequence[tuple[SampleRecord, float]], draws: int) -> list[_Unit]:
    if draws == 1:
        return [_Unit(row.group, (value,)) for row, value in scored]
    found: dict[str, tuple[str | None, list[float]]] = {}
    for row, value in scored:
        found.setdefault(row.id.rpartition(DRAW_MARK)[0], (row.group, []))[1].append(value)
    return [_Unit(group, tuple(sorted(values))) for group, values in found.values()]


def _named(groups: Sequence[str | None]) -> list[str]:
    named = [group for group in groups if group is not None]
    if len(named) != len(groups):
        raise ValueError(f"{len(groups) - len(named)} items have no group, and the mean is over groups")
    return named


def _distinct(records: Iterable[SampleRecord]) -> list[SampleRecord]:
    """The records, none twice: one sample counted twice would narrow the interval."""
    by_id: dict[str, SampleRecord] = {}
    for record in records:
        if by_id.setdefault(record.id, record) is not record:
            raise ValueError(f"sample {record.id} of task {record.task} is there twice")
    return list(by_id.values())
