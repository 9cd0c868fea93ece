"""The ledger: every claim on every size of a family, from the evidence that lies in a folder of results."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from harness.claims import evidence
from harness.claims.experiment import Cells, Compression, Criterion, Experiment
from harness.claims.family import Family, Line
from harness.claims.findings import NOT_YET, Effect, Finding
from harness.claims.plan import Plan
from harness.claims.steps import Job
from harness.claims.verdict import finding
from harness.records import RunError

ALL, TOKENIZERS = "all sizes", "tokenizers"
LEAST_SIZES = 3
"""Below so many sizes there is no order to speak of."""


def ledger(
    experiments: Sequence[Experiment], plan: Plan, command: str, failed: Mapping[Path, str] | None = None
) -> list[Finding]:
    """What is found of each experiment that suits the family. `command` begins the line that makes what is missing."""
    broken = failed or {}
    found = []
    for experiment in experiments:
        if not plan.suits(experiment):
            continue
        asked = f"{command} --only {experiment.name}"
        if experiment.across:
            found.append(_across(experiment, plan, asked, broken))
        else:
            found += [
                _of_size(experiment, plan, size, lines, asked, broken) for size, lines in plan.family.sizes.items()
            ]
    return found


def left_out(experiments: Sequence[Experiment], plan: Plan) -> list[str]:
    """Claims that are not tested on such a family."""
    return [experiment.name for experiment in experiments if not plan.suits(experiment)]


def as_json(findings: Sequence[Finding], family: Family) -> str:
    """The ledger as JSON."""
    return (
        json.dumps(
            {"family": family.name, "claims": [asdict(one) for one in findings]},
            ensure_ascii=False,
            indent=1,
            allow_nan=False,
        )
        + "\n"
    )


def _of_size(
    experiment: Experiment, plan: Plan, size: str, lines: Sequence[Line], command: str, failed: Mapping[Path, str]
) -> Finding:
    effects = [[_effect(test, plan, line, failed) for line in lines] for test in experiment.tests]
    wanted = experiment.seeds if plan.family.trained_here else 1
    return finding(experiment, size, effects, wanted, command, _plots(experiment, plan, lines))


def _effect(criterion: Criterion, plan: Plan, line: Line, failed: Mapping[Path, str]) -> Effect | str:
    folders = _folders(criterion, plan, line, failed)
    if isinstance(folders, str):
        return folders
    try:
        return evidence.effect(criterion, folders, line.trained)
    except RunError as error:
        return str(error)


def _folders(criterion: Criterion, plan: Plan, line: Line, failed: Mapping[Path, str]) -> dict[str, Path] | str:
    """The folders of a criterion's steps, or why one of them is not there."""
    jobs = {step: plan.job(step, line) for step in criterion.steps}
    for job in jobs.values():
        if isinstance(job, str):
            return job
    found: dict[str, Path] = {}
    for step, job in jobs.items():
        assert isinstance(job, Job)
        if not job.done:
            return failed.get(job.out, f"{NOT_YET}: {job.name}: {shlex.join(job.command)}")
        found[step] = job.out
    return found


def _across(experiment: Experiment, plan: Plan, command: str, failed: Mapping[Path, str]) -> Finding:
    of_tokenizers = all(isinstance(test, Compression) for test in experiment.tests)
    effects = [[_over_sizes(test, plan, failed, 1 if of_tokenizers else LEAST_SIZES)] for test in experiment.tests]
    return finding(experiment, TOKENIZERS if of_tokenizers else ALL, effects, 1, command)


def _over_sizes(criterion: Criterion, plan: Plan, failed: Mapping[Path, str], least: int) -> Effect | str:
    its = [_folders(criterion, plan, line, failed) for line in plan.family.lines]
    there = [folders for folders in its if not isinstance(folders, str)]
    if len(there) < least:
        missing = next((folders for folders in its if isinstance(folders, str)), None)
        return missing or f"{plan.family.name} has {len(there)} sizes with it, and this takes {least}"
    try:
        return evidence.across(criterion, there)
    except RunError as error:
        return str(error)


def _plots(experiment: Experiment, plan: Plan, lines: Sequence[Line]) -> list[str]:
    """Folders of finished sweeps that the criteria read."""
    found = []
    for step in dict.fromkeys(test.sweep for test in experiment.tests if isinstance(test, Cells)):
        for line in lines:
            job = plan.job(step, line)
            if isinstance(job, Job) and job.done:
                found.append(str(job.out))
    return found
