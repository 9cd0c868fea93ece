"""What a run judges of a task, what `spec.json` says of that, and the numbers that come of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from harness.records import Run
from harness.selection import digest, digest_prompts
from harness.summary import DRAW_MARK, summarise
from harness.whole import with_whole
from tasks.api import OUTCOME_METRICS, Sample, Task, TaskError


def entry(task: Task, everything: Sequence[Sample], chosen: Sequence[Sample]) -> dict[str, Any]:
    """What determines a task's numbers, whatever model answers: `everything` is the data set, of which some are chosen.

    Files that options name are not in it by name: their content is in the digests. Raises TaskError for a sample
    without a group where the metric is a mean over groups.
    """
    if task.mean == "groups" and (alone := [sample.id for sample in everything if sample.group is None]):
        raise TaskError(f"{task.name}: sample {alone[0]} has no group, and the task's metric is a mean over groups")
    options = {
        option.name: getattr(task.options, option.name)
        for option in fields(task.options)
        if getattr(task.options, option.name) != option.default
    }
    return {
        "version": task.version,
        "title": task.title,
        "protocol": task.protocol,
        "shots": task.shots,
        "metric": task.metric,
        "measures": dict(task.measures) | dict.fromkeys(task.whole, "mean"),
        "mean": task.mean,
        "sets": {name: list(groups) for name, groups in task.sets.items()},
        "options": {name: value for name, value in options.items() if not isinstance(value, Path)},
        "decoding": None if task.decoding is None else asdict(task.decoding),
        "report": None if task.report is None else asdict(task.report),
        "data": digest(everything),
        "items": len(everything),
        "prompts": digest_prompts(task, chosen),
    }


def drawn(samples: Sequence[Sample], draws: int) -> list[Sample]:
    """Each sample `draws` times, told apart by its id, so that each has a sampling seed of its own."""
    if draws == 1:
        return list(samples)
    return [replace(sample, id=f"{sample.id}{DRAW_MARK}{number}") for sample in samples for number in range(draws)]


def summary(run: Run, task: Task, draws: int) -> dict[str, Any]:
    """The task's entry in `results.json`. Raises TaskError where nothing counts."""
    try:
        metric = OUTCOME_METRICS[0] if task.metric in task.whole else task.metric
        entry = summarise(run.records(task.name), metric, draws, measures=task.measures, mean=task.mean, sets=task.sets)
        return with_whole(entry, list(run.records(task.name)), task.metric, task.whole) if task.whole else entry
    except ValueError as error:
        raise TaskError(
            f"{task.name}: no {task.metric} ({error}); if code could not be judged here, install its languages"
        ) from None
