"""What `harness score` does: judges a stored run anew, or a file of completions, without a model.

The result is a run folder like any other, except that its spec has "scored". It is begun again each time: what changed
may be the code of a task, which no spec shows.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from harness import environment
from harness.completions import assign, read_completions
from harness.counting import recounting
from harness.data import Data
from harness.evaluation import Progress, isolation
from harness.judged import Judged, record_of
from harness.loop import complete
from harness.plan import entry, summary
from harness.records import FORMAT, Run, RunError, SampleRecord, folder_name, keep_counted, spec_hash
from harness.registry import task_class, task_names
from harness.replay import Completion, Replay
from harness.runners import Runners, SandboxHandle
from harness.selection import select
from harness.store import open_store
from harness.summary import DRAW_MARK
from tasks.api import Decoding, Options, Sample, Task, TaskError


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which samples of a task are judged, and where they come from."""

    limit: int | None = None
    filters: Mapping[str, tuple[str, ...]]
    partial: bool = False
    """Whether samples without a completion are left out."""


@dataclass(frozen=True)
class _Job:
    """A sample with what answers for the model. `kept` is its row in the run that is judged anew."""

    task: Task
    sample: Sample
    model: Replay | Completion
    position: int
    kept: SampleRecord | None = None


def score_run(
    path: Path,
    *,
    out: Path | None,
    progress: Progress,
    tasks: Sequence[str] = (),
    options: Options,
    data_dir: Path | None = None,
    unsafe: bool = False,
) -> Run:
    """Judge the samples of a run anew, finished or not, into `out` or PATH-scored.

    `tasks` names the run's tasks that are not installed, as files; `options` are laid over those of the run. Raises
    TaskError, naming the sample, where a task now asks the model something else than it did, and RunError for folders.
    """
    run = Run(path)
    counted = run.counted
    files = {named.name: named for named in map(task_class, tasks)}
    data = Data(data_dir)
    made: list[Task] = []
    jobs: list[_Job] = []
    entries: dict[str, Any] = {}
    for name, before in run.spec["tasks"].items():
        records = list(run.records(name))
        if not records:
            continue  # of an unfinished run
        if name not in files and name not in task_names() and not name.startswith("lm-eval/"):
            raise TaskError(f"{path}: its task {name} is not installed; name it by --task path/to/file.py:Class")
        task = (files[name] if name in files else task_class(name))(_options(before, options))
        if before["decoding"] is not None:
            stop = tuple(before["decoding"]["stop"])
            # an attribute of this one task object: the run's sampling, not the protocol's own
            task.decoding = Decoding(**{**before["decoding"], "stop": stop})  # type: ignore[misc]
        everything = task.samples(data)
        if counted:
            everything, _ = task.fit(everything, recounting(path, counted))
        samples = _stored_samples(path, name, before, records, {sample.id: sample for sample in everything})
        jobs.extend(
            _Job(task, replace(sample, id=record.id), Replay(record.id, record.asked), record.position, record)
            for sample, record in zip(samples, records, strict=True)
        )
        chosen = list({sample.id: sample for sample in samples}.values())
        entries[name] = {**before, **entry(task, everything, chosen), "items": before["items"]}
        made.append(task)
    if not jobs:
        raise RunError(f"{path}: no sample is judged there yet; continue the run first")
    spec = run.spec | {
        "engine": environment.version(),
        "tasks": entries,
        "scored": {
            "run": spec_hash(run.spec),
            "samples": {task.name: sum(job.task is task for job in jobs) for task in made},
        },
    }
    whole = path if path.name else path.resolve()  # "." has no name
    folder = whole.with_name(whole.name + "-scored") if out is None else out
    judged = _execute(spec, made, jobs, folder, data, unsafe, progress)
    keep_counted(folder, counted)
    return judged


def _stored_samples(
    path: Path, name: str, before: Mapping[str, Any], records: Sequence[SampleRecord], by_id: Mapping[str, Sample]
) -> list[Sample]:
    """The sample of each record; of several answers to a problem all have the problem's."""
    found = []
    for record in records:
        id_ = record.id.rpartition(DRAW_MARK)[0] if before.get("draws", 1) > 1 else record.id
        if id_ not in by_id:
            raise TaskError(f"{name}: sample {id_} of {path} is not in the data now; give the run's --data-dir")
        found.append(by_id[id_])
    return found


def score_completions(
    name: str,
    file: Path,
    selection: Selection,
    *,
    out: Path | None,
    progress: Progress,
    options: Options,
    data_dir: Path | None = None,
    unsafe: bool = False,
) -> Run:
    """Judge the texts of a file as a task's answers, into `out` or runs/FILE-TASK-HASH.

    Raises TaskError, naming the line where there is one, and RunError for folders.
    """
    completions = read_completions(file)
    task = task_class(name)(options)
    if task.decoding is None:
        raise TaskError(
            f"--completions: task {task.name} has no decoding: it compares log-probabilities, or asks as lm-eval's "
            "file says; use `harness run`"
        )
    data = Data(data_dir)
    everything = task.samples(data)
    chosen = select(task.name, everything, selection.filters, selection.limit)
    texts = assign(completions, everything, chosen, partial=selection.partial)
    counts = Counter(id_ for _, id_, _ in completions.lines)
    chosen = [sample for sample in chosen if sample.id in counts]
    draws, fewest = (pick(counts[sample.id] for sample in chosen) for pick in (max, min))
    jobs = [_Job(task, sample, Completion(sample.id, text), position) for position, (sample, text) in enumerate(texts)]
    spec = {
        "format": FORMAT,
        "engine": environment.version(),
        "model": {"name": file.name, "fingerprint": completions.sha256, "backend": "completions"},
        "tasks": {
            task.name: {
                **entry(task, everything, chosen),
                "limit": selection.limit,
                "filter": {field: list(values) for field, values in selection.filters.items()},
                "partial": selection.partial,
                **({"draws": draws, "fewest_draws": fewest} if draws > 1 else {}),
            }
        },
        "scored": {"samples": {task.name: len(jobs)}},
    }
    folder = out or Path("runs") / folder_name(file.stem, task.name, spec_hash(spec)[:8])
    return _execute(spec, [task], jobs, folder, data, unsafe, progress)


def _options(before: Mapping[str, Any], given: Options) -> Options:
    """The options of a stored run, and over them those that are given now: files have to be named again."""
    stored = {name: tuple(value) if isinstance(value, list) else value for name, value in before["options"].items()}
    now = {
        option.name: getattr(given, option.name)
        for option in fields(given)
        if getattr(given, option.name) != option.default
    }
    return Options(**stored | now)


def _execute(
    spec: Mapping[str, Any],
    tasks: Sequence[Task],
    jobs: Sequence[_Job],
    folder: Path,
    data: Data,
    unsafe: bool,
    progress: Progress,
) -> Run:
    with open_store(folder, spec, anew=True) as store:
        progress.stage(f"run folder: {folder}")
        facts = {"sandbox": isolation(tasks, unsafe, progress)}
        for task in tasks:
            progress.begin(task.name, 0, sum(job.task is task for job in jobs))

        def done(judged: Judged, position: int) -> None:
            store.add(record_of(judged, position))
            progress.judged(judged.task.name)

        complete(_judge_all(jobs, unsafe, done))
        run = Run(folder)
        draws = {name: entry.get("draws", 1) for name, entry in spec["tasks"].items()}
        results = {"spec": spec, "tasks": {task.name: summary(run, task, draws[task.name]) for task in tasks}}
        origins = {source.name: loaded.origin for source, loaded in data.loaded.items()}
        store.finish(results, environment.describe() | {"data_origins": origins} | facts)
    return run


async def _judge_all(jobs: Sequence[_Job], unsafe: bool, done: Callable[[Judged, int], None]) -> None:
    runners = Runners(len(os.sched_getaffinity(0)), unsafe=unsafe)
    try:
        await asyncio.gather(*(_judge(job, SandboxHandle(runners), done) for job in jobs))
    finally:
        runners.close()


async def _judge(job: _Job, sandbox: SandboxHandle, done: Callable[[Judged, int], None]) -> None:
    start = time.monotonic()
    verdict = await job.task.judge(job.sample, job.model, sandbox)
    seconds, model, kept = time.monotonic() - start, job.model, job.kept
    said = model.prompt, model.response, model.finish, model.logprobs
    if kept is not None and len(kept.asked) == len(model.asked):
        # as the model saw it, rendered by its template
        said = kept.prompt, kept.response, kept.finish, kept.token_logprobs
    done(Judged(job.task, job.sample, verdict, *said, tuple(model.asked), seconds), job.position)
