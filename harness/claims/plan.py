"""A plan: the steps' commands filled in for each line of a family, in an order in which they can be run."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from harness.claims.experiment import Experiment
from harness.claims.family import ROLES, Family, Line
from harness.claims.steps import FILE, Job, Step, read_steps
from tasks.api import TaskError

_NAME = re.compile(r"\{([1-9]?\d*[a-zA-Z_]+)(?::([\w-]+))?\}")
HELD_OUT = "held-out"
"""The step that makes texts where a family names none."""


class _Lacking(Exception):
    """A step cannot be had; the message is one line on what it lacks."""


class Plan:
    """The jobs of a family, made as they are asked for."""

    def __init__(
        self, family: Family, results: Path, data: Path | None, steps: Mapping[str, Step] | None = None
    ) -> None:
        self.family, self.results, self.data = family, results, data
        self._steps = read_steps() if steps is None else steps
        self._found: dict[tuple[str, str], Job | str] = {}
        self._open: list[tuple[str, str]] = []

    def job(self, step: str, line: Line) -> Job | str:
        """The job, or one line on what it lacks. Raises TaskError for a step that is not there."""
        if step not in self._steps:
            raise TaskError(f"{FILE}: no step is called {step!r}; there are {', '.join(self._steps)}")
        key = (step, "" if self._steps[step].per == "once" else line.name)
        if key in self._open:
            raise TaskError(f"{FILE}: {step} comes after itself; mend its command")
        if key not in self._found:
            self._open.append(key)
            try:
                self._found[key] = self._made(step, line)
            except _Lacking as lack:
                self._found[key] = str(lack)
            finally:
                self._open.pop()
        return self._found[key]

    def jobs(self, experiments: Sequence[Experiment]) -> list[Job]:
        """All that is of use to the experiments, each after what it needs: where one step of a claim cannot be had, its
        others are not run for it."""
        found: dict[Path, Job] = {}
        for experiment in experiments:
            for line in self.family.lines if self.suits(experiment) else ():
                its = [self.job(step, line) for step in experiment.steps]
                there = [job for job in its if isinstance(job, Job)]
                for job in there if len(there) == len(its) else ():
                    _append(found, job)
        return list(found.values())

    def suits(self, experiment: Experiment) -> bool:
        """Whether the experiment is meant for such a family."""
        return ("trained" if self.family.trained_here else "given") in experiment.families

    def _made(self, name: str, line: Line) -> Job:
        step = self._steps[name]
        if missing := [folder for folder in step.data if self.data is None or not (self.data / folder).exists()]:
            raise _Lacking(f"the data folder has no {missing[0]}/ (give --data-dir, docs/data.md)")
        out = (self.results if step.per == "once" else self.results / self.family.name / line.name) / name
        after: dict[Path, Job] = {}

        def filled(match: re.Match[str]) -> str:
            return self._value(match[1], match[2], line, out, after)

        written = step.trained if step.trained and self.family.trained_here else step.command
        command = tuple(_NAME.sub(filled, word) for word in shlex.split(written))
        recipe = None if step.recipe is None else _NAME.sub(filled, yaml.safe_dump(dict(step.recipe), sort_keys=False))
        return Job(
            name=name if step.per == "once" else f"{self.family.name} {line.name}: {name}",
            step=name,
            command=command,
            out=out,
            recipe=recipe,
            after=tuple(after.values()),
            minutes=step.minutes,
            key=self._key([*command], recipe, [job.key for job in after.values()]),
        )

    def _key(self, *parts: object) -> str:
        """A digest of all that the numbers hang on; results and data may be moved."""
        text = json.dumps(parts).replace(f"{self.results}/", "")
        text = text if self.data is None else text.replace(str(self.data), "")
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _value(self, name: str, step: str | None, line: Line, out: Path, after: dict[Path, Job]) -> str:
        """What stands for a name in braces; `after` gets the job that it comes from. Raises _Lacking, TaskError."""
        if name == "step" and step is not None:
            return self._folder(step, line, after)
        if name in ROLES:
            return self._model(name, line, after)
        if name == "documents":
            return self.family.documents or self._folder(HELD_OUT, line, after)
        if name == "lengths":
            powers = [2**power for power in range(32) if 2**power <= self.family.reach]
            return ",".join(str(self._trained(line, times)) for times in powers)
        if times := re.fullmatch(r"(\d*)T", name):
            return str(self._trained(line, int(times[1] or 1)))
        known: dict[str, object] = {
            "out": out,
            "recipe": out.with_name(out.name + ".yaml"),
            "seed": line.seed,
            "size": line.size,
            "data": self.data,
            "dtype": self.family.dtype,
        }
        if name not in known:
            raise TaskError(f"{FILE}: {{{name}}} is not one of {', '.join(known)}, a role or step:NAME")
        if known[name] is None:
            raise _Lacking(f"{self.family.name} {line.name} has no {name}")
        return str(known[name])

    def _trained(self, line: Line, times: int) -> int:
        if line.trained is None:
            raise _Lacking(f"{self.family.name} {line.name} says no `trained`, the length it was trained at")
        return times * line.trained

    def _folder(self, step: str, line: Line, after: dict[Path, Job]) -> str:
        job = self.job(step, line)
        if isinstance(job, str):
            raise _Lacking(job)
        after[job.out] = job
        return str(job.out)

    def _model(self, role: str, line: Line, after: dict[Path, Job]) -> str:
        if role in line.models:
            return line.models[role]
        maker = next((name for name, step in self._steps.items() if role in step.makes), None)
        if maker is None or not self.family.trained_here:
            raise _Lacking(f"{self.family.name} {line.name} has no model as `{role}`")
        return str(Path(self._folder(maker, line, after)) / self._steps[maker].makes[role])


def _append(found: dict[Path, Job], job: Job) -> None:
    for earlier in job.after:
        _append(found, earlier)
    found.setdefault(job.out, job)
