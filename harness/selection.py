"""Which of a task's samples a run judges.

`--limit N` takes the N samples whose ids have the smallest hash: a fixed random sample of the whole data set, the same
for every model, machine and seed, and contained in that of any larger limit. The first N would be one subject of MMLU.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from harness.records import canonical
from tasks.api import Chat, Sample, Task, TaskError


def select(
    task: str, samples: Sequence[Sample], filters: Mapping[str, Sequence[str]], limit: int | None
) -> list[Sample]:
    """Samples whose fields have one of the wanted values, at most `limit`, in the data set's order.

    Raises TaskError for a field that the task has not, for two samples of one id, or where nothing is left.
    """
    check_limit(limit)
    if doubled := [id_ for id_, times in Counter(sample.id for sample in samples).items() if times > 1]:
        raise TaskError(f"{task}: id {doubled[0]!r} is there twice; give every row of the data an id of its own")
    chosen = list(samples)
    for field, values in filters.items():
        known = {str(sample.fields[field]) for sample in samples if field in sample.fields}
        unknown = [value for value in values if value not in known]
        if not known:
            names = ", ".join(sorted({name for sample in samples for name in sample.fields}))
            raise TaskError(f"--filter: {task} has no field {field!r}; its fields are {names}")
        if unknown:
            some = ", ".join(sorted(known)[:8])
            raise TaskError(f"--filter: no sample of {task} has {field}={unknown[0]}; there are {some}, ...")
        chosen = [sample for sample in chosen if str(sample.fields.get(field)) in values]
    if not chosen:
        raise TaskError(f"--filter: no sample of {task} is left; widen the filter")
    if limit is not None and limit < len(chosen):
        kept = {sample.id for sample in sorted(chosen, key=lambda sample: _rank(task, sample.id))[:limit]}
        chosen = [sample for sample in chosen if sample.id in kept]
    return chosen


def check_limit(limit: int | None) -> None:
    """Raises TaskError for a limit that is no number of samples."""
    if limit is not None and limit < 1:
        raise TaskError(f"--limit: {limit} is no number of samples; give 1 or more, or leave it out for all")


def digest(samples: Sequence[Sample]) -> str:
    """SHA-256 (16 hex digits) over all samples of a task: ids, fields, gold, groups."""
    lines = (canonical([sample.id, dict(sample.fields), sample.gold, sample.group]) for sample in samples)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def digest_prompts(task: Task, samples: Sequence[Sample]) -> str:
    """SHA-256 (16 hex digits) over the prompts of the chosen samples: few-shot texts and wording are in it."""
    prompts = (task.prompt(sample) for sample in samples)
    lines = (canonical(asdict(prompt) if isinstance(prompt, Chat) else prompt) for prompt in prompts)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _rank(task: str, id_: str) -> bytes:
    # protocols of one benchmark share the first part of their name, and so the selection: they can be compared in pairs
    return hashlib.sha256(f"{task.split('-')[0]}\0{id_}".encode()).digest()
