"""Steps: the commands that make evidence, each written once in `steps.yaml`.

A command is a line of `harness`, `qwen-train` or `python`, with names in braces for what differs:

    {out}, {recipe}            the step's own folder, and the file with what stands under its `recipe`
    {seed}, {size}             of the line of the family
    {T}, {2T}, {lengths}       the trained length, twice that, and T, 2 T, 4 T, ... as far as the family reaches
    {base}, {chat}, ...        models, by their role
    {step:NAME}                another step's folder
    {documents}, {dtype}       of the family
    {data}                     the data folder

A step whose command names another's folder, or a model that a step makes, comes after it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from harness.claims.family import ROLES
from harness.claims.files import Part, read_file
from tasks.api import TaskError

FILE = Path(__file__).with_name("steps.yaml")
PROGRAMS = ("harness", "qwen-train", "python")


class Step(Part):
    """A command and what it takes."""

    command: str
    trained: str | None = None
    """The command for the family that is trained here, where it is another one."""
    per: Literal["line", "once"] = "line"
    """For each size or seed, or once for all families."""
    recipe: Mapping[str, Any] | None = None
    """Of a training: written as YAML beside the folder."""
    makes: Mapping[str, str] = {}
    """Models that lie in its folder afterwards, by role."""
    data: tuple[str, ...] = ()
    """Folders that the data folder must have."""
    minutes: float = Field(gt=0)
    """On two cores, for the nano family; only the time left is reckoned by it."""

    @field_validator("makes")
    @classmethod
    def _roles(cls, makes: Mapping[str, str]) -> Mapping[str, str]:
        if unknown := [role for role in makes if role not in ROLES]:
            raise ValueError(f"{unknown[0]!r} is no role; there are {', '.join(ROLES)}")
        return makes

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
