"""A judged sample, and the row of `samples.sqlite` that it becomes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.records import SampleRecord
from tasks.api import Sample, Task, TaskError, Verdict


@dataclass(frozen=True)
class Judged:
    """A sample's verdict with what the model saw and wrote (of its last request)."""

    task: Task
    sample: Sample
    verdict: Verdict
    prompt: str
    response: str
    finish: str | None
    logprobs: tuple[float, ...] | None
    asked: tuple[Mapping[str, Any], ...]
    """Every request with what came of it, as in `harness.records.SampleRecord`."""
    seconds: float


def record_of(judged: Judged, position: int) -> SampleRecord:
    """The row of a judged sample. Raises TaskError for scores that the task does not declare or cannot have."""
    verdict, sample = judged.verdict, judged.sample
    choices = verdict.choice_logprobs
    return SampleRecord(
        task=judged.task.name,
        id=sample.id,
        position=position,
        group=sample.group,
        prompt=judged.prompt,
        response=judged.response,
        answer=verdict.answer,
        gold=sample.gold,
        correct=verdict.correct,
        outcome=verdict.outcome,
        finish=judged.finish,
        choice_logprobs=None if choices is None else dict(choices),
        token_logprobs=judged.logprobs,
        scores=_scores(judged.task, sample, verdict),
        asked=judged.asked,
        detail=dict(verdict.detail),
        seconds=round(judged.seconds, 3),
    )


def _scores(task: Task, sample: Sample, verdict: Verdict) -> dict[str, float]:
    for name, value in verdict.scores.items():
        wrong = None
        if name not in task.measures:
            wrong = f"is none of the task's measures ({', '.join(task.measures) or 'it has none'})"
        elif not math.isfinite(value):
            wrong = f"is {value}, not a finite number; leave it out where it has no meaning"
        elif task.measures[name] == "share" and value not in (0, 1):
            wrong = f"is {value}; a share is of zeros and ones"
        if wrong:
            raise TaskError(f"{task.name}, sample {sample.id}: score {name!r} {wrong}")
    return {name: float(value) for name, value in verdict.scores.items()}
