"""Which samples of two runs are the same, and what keeps the runs from being the same measurement."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.comparison import Difference, Flip, Pair, RunComparison, TaskComparison, paired
from harness.records import Run, RunError, SampleRecord, canonical, run_names
from harness.summary import DRAW_MARK, UNCOUNTED
from tasks.api import OUTCOME_METRICS

SAID = ("version", "protocol", "shots", "metric", "decoding", "draws", "data", "prompts")
"""Fields of a task's spec whose difference is said."""
DIGESTS = ("data", "prompts")
"""Those that are known only of runs that this program made, and not of imported ones."""


@dataclass
class _Item:
    """One sample of a run, with the values of its answers, of which there are several only for pass@k."""

    group: str | None
    gold: str
    values: list[float] = field(default_factory=list)
    answers: list[str | None] = field(default_factory=list)

    @property
    def value(self) -> float:
        return math.fsum(self.values) / len(self.values)

    @property
    def answer(self) -> str | None:
        if len(self.answers) == 1:
            return self.answers[0]
        return f"{sum(value == 1 for value in self.values)} of {len(self.values)} answers right"


def compare(first: Run, second: Run) -> RunComparison:
    """All tasks that the two have in common, on the samples that both judged.

    A task that only one run has is compared with another protocol of the same benchmark (gsm8k, gsm8k-chat) in the
    other run, if there is exactly one and the samples' ids agree. Raises RunError if nothing is in common.
    """
    names = run_names([first, second])
    tasks: list[TaskComparison] = []
    apart: dict[tuple[str, str], str] = {}
    for one, other in _couples(first, second):
        if (task := _task(first, one, second, other, names)) is not None:
            tasks.append(task)
        else:
            apart[one, other] = (
                _without_values(first, one) or _without_values(second, other) or f"{one}: no sample in common"
            )
    if not tasks:
        said = f"no sample in common (tasks {', '.join(_tasks(first))} there, {', '.join(_tasks(second))} here)"
        raise RunError(f"{first.path}, {second.path}: {'; '.join(apart.values()) or said}; compare other runs or tasks")
    couples = [*((task.task, task.other) for task in tasks), *apart]
    left = [
        f"Only {name} has {', '.join(alone)}."
        for name, its, taken in (
            (names[0], _tasks(first), {one for one, _ in couples}),
            (names[1], _tasks(second), {other for _, other in couples}),
        )
        if (alone := [task for task in its if task not in taken])
    ]
    notes = (*(f"{reason}." for reason in apart.values()), *left)
    return RunComparison(first=names[0], second=names[1], tasks=tuple(tasks), notes=notes)


def _without_values(run: Run, task: str) -> str | None:
    """Why no sample of a task can be paired, if so: none is judged, or the metric is a number of the whole run."""
    spec = run.spec["tasks"][task]
    if next(run.records(task), None) is None:
        return f"{task}: no sample is judged yet in {run.path}"
    if spec["metric"] in OUTCOME_METRICS or _items(run, task, spec):
        return None
    return f"{task}: its samples have no {spec['metric']} of their own to be paired by"


def _tasks(run: Run) -> list[str]:
    return list(run.spec["tasks"])


def _couples(first: Run, second: Run) -> Iterable[tuple[str, str]]:
    ours, theirs = _tasks(first), _tasks(second)
    for task in ours:
        if task in theirs:
            yield task, task
            continue
        others = [other for other in theirs if other not in ours and other.split("-")[0] == task.split("-")[0]]
        if len(others) == 1:
            yield task, others[0]


def _task(first: Run, task: str, second: Run, other: str, names: Sequence[str]) -> TaskComparison | None:
    """None if the two share no sample."""
    spec, its = first.spec["tasks"][task], second.spec["tasks"][other]
    metric = spec["metric"]
    ours, theirs = _items(first, task, spec), _items(second, other, its)
    common = [id_ for id_ in ours if id_ in theirs]
    if not common:
        return None
    kind = spec.get("measures", {}).get(metric, "share")
    mean = spec.get("mean", "items")
    pairs = [Pair(id_, ours[id_].group, ours[id_].value, theirs[id_].value) for id_ in common]
    by_group: defaultdict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        if pair.group is not None:
            by_group[pair.group].append(pair)
    flips = [
        Flip(
            id=pair.id,
            group=pair.group,
            gold=ours[pair.id].gold,
            gained=pair.second > pair.first,
            first=ours[pair.id].answer,
            second=theirs[pair.id].answer,
        )
        for pair in pairs
        if kind == "share" and pair.first != pair.second
    ]
    sets: dict[str, Difference] = {}
    for name, groups in spec.get("sets", {}).items():
        if inside := [pair for group in groups for pair in by_group.get(group, [])]:
            sets[name] = paired(inside, kind, mean)
    return TaskComparison(
        task=task,
        other=other,
        metric=metric,
        kind=kind,
        whole=paired(pairs, kind, mean),
        sets=sets,
        groups={group: paired(by_group[group], kind) for group in sorted(by_group)},
        flips=tuple(flips),
        notes=tuple(_notes(task, other, spec, its, ours, theirs, common, names)),
    )


def _items(run: Run, task: str, spec: Mapping[str, Any]) -> dict[str, _Item]:
    """The judged samples in the data set's order."""
    found: dict[str, _Item] = {}
    metric, draws = spec["metric"], spec.get("draws", 1)
    for record in run.records(task):
        value = value_of(record, metric)
        if value is not None:
            id_ = record.id.rpartition(DRAW_MARK)[0] if draws > 1 else record.id
            item = found.setdefault(id_, _Item(record.group, record.gold))
            item.values.append(value)
            item.answers.append(record.answer)
    return found


def value_of(record: SampleRecord, metric: str) -> float | None:
    """A sample's number; None where it could not be judged, or has no such score."""
    if metric not in OUTCOME_METRICS:
        return record.scores.get(metric)
    return None if record.outcome == UNCOUNTED else float(record.correct)


def _notes(
    task: str,
    other: str,
    spec: Mapping[str, Any],
    its: Mapping[str, Any],
    ours: Mapping[str, _Item],
    theirs: Mapping[str, _Item],
    common: Sequence[str],
    names: Sequence[str],
) -> list[str]:
    """What keeps the two from being one measurement."""
    found = []
    if task != other:
        found.append(f"{task} of {names[0]} is compared with {other} of {names[1]}.")
    for name in SAID:
        one, two = spec.get(name), its.get(name)
        if one != two and not (name in DIGESTS and None in (one, two)):
            found.append(f"{task}: {name} differs: {_short(one)} in {names[0]}, {_short(two)} in {names[1]}.")
    alone = [(name, len(items) - len(common)) for name, items in zip(names, (ours, theirs), strict=True)]
    if any(more for _, more in alone):
        rest = ", ".join(f"{more:,} more in {name}" for name, more in alone if more)
        found.append(f"{task}: the {len(common):,} samples in common are compared; {rest}.")
    if changed := sum(ours[id_].gold != theirs[id_].gold for id_ in common):
        found.append(f"{task}: {changed:,} samples of the same id have another gold answer: the data are not the same.")
    return found


def _short(value: Any) -> str:
    return value if isinstance(value, str) else canonical(value)
