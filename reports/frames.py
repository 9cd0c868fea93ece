"""Runs and comparisons as pandas frames: what tables, pages and CSV files are made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.comparison import Difference, RunComparison, TaskComparison
from harness.records import MICRO, Estimate, Run
from reports.render import chief

if TYPE_CHECKING:
    import pandas


def results(runs: Mapping[str, Run]) -> pandas.DataFrame:
    """A row per run (by name), task and number: run, model, task, part, name, kind, n, value, low, high.

    `part` is "metric" for the task's chief number, "measure" for further ones, "set" or "group"; shares are fractions.
    """
    import pandas

    rows = [
        {"run": name, "model": str(run.spec.get("model", {}).get("name", "unknown")), **row}
        for name, run in runs.items()
        for row in _of_run(run)
    ]
    return pandas.DataFrame(rows)


def _of_run(run: Run) -> Iterator[dict[str, Any]]:
    for task, result in run.results.items():
        spec = run.spec.get("tasks", {}).get(task, {})
        metric, kinds = chief(spec, result), spec.get("measures", {})
        parts: tuple[tuple[str, Mapping[str, Estimate]], ...] = (
            ("metric", {metric: result.metrics[metric]}),
            ("measure", {name: estimate for name, estimate in result.metrics.items() if name != metric}),
            ("set", result.sets),
            ("group", result.groups),
        )
        for part, estimates in parts:
            for name, its in estimates.items():
                measured = name if part == "measure" else metric
                kind = kinds.get(measured.removesuffix(MICRO), "share")
                row = {"task": task, "part": part, "name": name, "kind": kind}
                yield row | {"n": its.n, "value": its.value, "low": its.low, "high": its.high}


def differences(comparisons: Sequence[RunComparison]) -> pandas.DataFrame:
    """A row per pair of runs and task, set or group; shares are fractions. `p` is NaN where there is no test."""
    import pandas

    return pandas.DataFrame(
        [
            {
                "first": comparison.first,
                "second": comparison.second,
                "task": task.task,
                "part": part,
                "name": name,
                "metric": task.metric,
                "kind": task.kind,
                "n": its.n,
                "first_value": its.first,
                "second_value": its.second,
                "difference": its.value,
                "low": its.low,
                "high": its.high,
                "p": its.p,
                "gained": its.gained,
                "lost": its.lost,
            }
            for comparison in comparisons
            for task in comparison.tasks
            for part, name, its in parts(task)
        ]
    )


def flips(comparisons: Sequence[RunComparison]) -> pandas.DataFrame:
    """A row per sample that is right in one run only; answers that could not be read are "none"."""
    import pandas

    columns = ["first", "second", "task", "id", "group", "change", "first_answer", "second_answer", "gold"]
    rows = [
        (
            *(comparison.first, comparison.second, task.task, flip.id, flip.group or ""),
            "gained" if flip.gained else "lost",
            *("none" if answer is None else answer for answer in (flip.first, flip.second)),
            flip.gold,
        )
        for comparison in comparisons
        for task in comparison.tasks
        for flip in task.flips
    ]
    return pandas.DataFrame(rows, columns=columns)


def parts(task: TaskComparison) -> Iterator[tuple[str, str, Difference]]:
    """(task, set or group; its name; its difference)."""
    yield "task", task.task if task.task == task.other else f"{task.task} / {task.other}", task.whole
    yield from (("set", name, difference) for name, difference in task.sets.items())
    yield from (("group", name, difference) for name, difference in task.groups.items())
