"""Steps: the commands that make evidence, each written once in `steps.yaml`, and a plan of them for a family.

A command is a line of `harness`, `qwen-train` or `python`, with names in braces for what differs:

    {out}, {recipe}            the step's own folder, and the file with what stands under its `recipe`
    {seed}, {size}             of the line of the family
    {T}, {2T}, {lengths}       the trained length, twice that, and T, 2 T, 4 T, ... as far as the family reaches
    {base}, {chat}, ...        models, by their role
    {step:NAME}                another step's folder
    {documents}, {dtype}       of the family
    {data}                     the data directory

A step whose command names another's folder, or a model that a step makes, comes after it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator

from harness.claims.experiment import Experiment
from harness.claims.family import ROLES, Family, Line, Role
from harness.claims.files import Part, read_file
from tasks.api import TaskError

FILE = Path(__file__).with_name("steps.yaml")
PROGRAMS = ("harness", "qwen-train", "python")
_NAME = re.compile(r"\{([1-9]?\d*[a-zA-Z_]+)(?::([\w-]+))?\}")
HELD_OUT = "held-out"
"""The step that makes texts where a family names none."""


class Step(Part):
    """A command and what it takes."""

    command: str
    trained: str | None = None
    """The command for the family that is trained here, where it is another one."""
    per: Literal["line", "once"] = "line"
    """For each size or seed, or once for all families."""
    recipe: Mapping[str, Any] | None = None
    """Of a training: written as YAML beside the folder."""
    makes: Mapping[Role, str] = {}
    """Models that lie in its folder afterwards, by role."""
    data: tuple[str, ...] = ()
    """Folders that the data directory must have."""
    minutes: float = Field(gt=0)
    """On two cores, for the nano family; only the time left is reckoned by it."""

    @field_validator("command", "trained")
    @classmethod
    def _a_known_program(cls, command: str | None) -> str | None:
        if command is None:
            return None
        words = shlex.split(command)
        if not words or words[0] not in PROGRAMS:
            raise ValueError(f"{command[:40]!r} is no command of {', '.join(PROGRAMS)}")
        return command


class _Steps(Part):
    steps: Mapping[str, Step]


def read_steps(path: Path = FILE) -> Mapping[str, Step]:
    """All steps by name. Raises TaskError."""
    return read_file(_Steps, path).steps


@dataclass(frozen=True, kw_only=True)
class Job:
    """A step with its command filled in."""

    name: str
    step: str
    command: tuple[str, ...]
    out: Path
    recipe: str | None
    """Text of the recipe's file, which is written before the command runs."""
    after: tuple[Job, ...] = field(repr=False)
    minutes: float
    key: str
    """Changes with the command, and with those that came before."""

    @property
    def marker(self) -> Path:
        return self.out.with_name(self.out.name + ".done.json")

    @property
    def recipe_file(self) -> Path:
        return self.out.with_name(self.out.name + ".yaml")

    @property
    def log(self) -> Path:
        return self.out.with_name(self.out.name + ".log")

    @property
    def done(self) -> bool:
        return self._marked() == self.key

    @property
    def stale(self) -> bool:
        """Whether the folder was filled by another command."""
        return self._marked() not in (None, self.key)

    def _marked(self) -> str | None:
        try:
            return str(json.loads(self.marker.read_text(encoding="utf-8"))["key"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise TaskError(f"{self.marker}: no marker of a finished step ({error}); delete it") from error

    @property
    def seconds(self) -> float:
        """What it took. Only of a job that is done."""
        return float(json.loads(self.marker.read_text(encoding="utf-8"))["seconds"])


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

    def _made(self, name: str, line: Line) -> Job | str:
        step = self._steps[name]
        missing = [folder for folder in step.data if self.data is None or not (self.data / folder).exists()]
        if missing:
            return f"the data directory has no {missing[0]}/ (give --data-dir, docs/data.md)"
        where = self.results if step.per == "once" else self.results / self.family.name / line.name
        out = where / name
        after: dict[Path, Job] = {}
        lacking: list[str] = []

        def filled(match: re.Match[str]) -> str:
            value = self._value(match, line, out, after)
            if value is None:
                lacking.append(match[0])
                return ""
            return value

        line_of = step.trained if step.trained and self.family.trained_here else step.command
        command = [_NAME.sub(filled, word) for word in shlex.split(line_of)]
        recipe = None if step.recipe is None else _NAME.sub(filled, yaml.safe_dump(dict(step.recipe), sort_keys=False))
        if lacking:
            return self._lack(lacking[0], line)
        before = [job.key for job in after.values()]
        digest = hashlib.sha256(self._placeless(json.dumps([command, recipe, before])).encode()).hexdigest()[:16]
        label = name if step.per == "once" else f"{self.family.name} {line.name}: {name}"
        return Job(
            name=label,
            step=name,
            command=tuple(command),
            out=out,
            recipe=recipe,
            after=tuple(after.values()),
            minutes=step.minutes,
            key=digest,
        )

    def _placeless(self, text: str) -> str:
        """The text without where results and data lie: both may be moved."""
        for place in (self.results, self.data):
            text = text if place is None else text.replace(f"{place}/", "")
        return text

    def _value(self, match: re.Match[str], line: Line, out: Path, after: dict[Path, Job]) -> str | None:
        """What stands for a name in braces; None where there is none."""
        name, step = match[1], match[2]
        if name == "step":
            return self._folder(step, line, after)
        if name in ROLES:
            return self._model(name, line, after)
        if name == "documents":
            return self.family.documents or self._folder(HELD_OUT, line, after)
        T = line.trained
        if times := re.fullmatch(r"(\d*)T", name):
            return None if T is None else str(int(times[1] or 1) * T)
        doubled = [2**power for power in range(32) if 2**power <= self.family.reach]
        known = {
            "out": str(out),
            "seed": None if line.seed is None else str(line.seed),
            "size": line.size,
            "lengths": None if T is None else ",".join(str(times * T) for times in doubled),
            "data": None if self.data is None else str(self.data),
            "dtype": self.family.dtype,
            "recipe": str(out.with_name(out.name + ".yaml")),
        }
        if name not in known:
            raise TaskError(f"{FILE}: {match[0]} is not one of {', '.join(known)}, a role or step:NAME")
        return known[name]

    def _folder(self, step: str, line: Line, after: dict[Path, Job]) -> str | None:
        job = self.job(step, line)
        if isinstance(job, str):
            return None
        after[job.out] = job
        return str(job.out)

    def _model(self, role: str, line: Line, after: dict[Path, Job]) -> str | None:
        if role in line.models:
            return line.models[role]
        makers = [name for name, step in self._steps.items() if role in step.makes]
        if not (makers and self.family.trained_here):
            return None
        folder = self._folder(makers[0], line, after)
        return None if folder is None else str(Path(folder) / self._steps[makers[0]].makes[role])  # type: ignore[index]

    def _lack(self, name: str, line: Line) -> str:
        """Why a name in braces has no value."""
        inner = name.strip("{}")
        if inner.startswith("step:") or inner in ROLES:
            makers = [inner.removeprefix("step:")] if inner.startswith("step:") else self._makers(inner)
            for step in makers:
                if isinstance(reason := self.job(step, line), str):
                    return reason
            return f"{self.family.name} {line.name} has no model as `{inner}`"
        if inner == "lengths" or inner.endswith("T"):
            return f"{self.family.name} {line.name} says no `trained`, the length it was trained at"
        return "no --data-dir is given" if inner == "data" else f"{self.family.name} {line.name} has no {inner}"

    def _makers(self, role: str) -> list[str]:
        return [name for name, step in self._steps.items() if role in step.makes] if self.family.trained_here else []


def _append(found: dict[Path, Job], job: Job) -> None:
    for earlier in job.after:
        _append(found, earlier)
    found.setdefault(job.out, job)
