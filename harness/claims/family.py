"""Families of models: what claims are tested on. A family has sizes, a size has models by their part in the report.

The nano family is trained here (`nano.yaml`): it has seeds instead of sizes, and its models are made by steps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from harness.claims.files import Part, read_file
from qwen_model.catalogue import entry
from qwen_model.download import DownloadError
from tasks.api import TaskError

NANO = Path(__file__).with_name("nano.yaml")
_NAME = re.compile(r"[\w.-]+")


class Size(Part):
    """Models of one size, each a catalogue name, a folder or a .gguf file; those that there are."""

    size: str
    trained: int | None = Field(default=None, ge=16)
    """Tokens that it was trained at, where this differs from the family's."""
    base: str | None = None
    chat: str | None = None
    """After SFT."""
    code: str | None = None
    math_chat: str | None = None
    rlhf: str | None = None
    """`chat` after PPO."""
    rlhf_without_ptx: str | None = None
    reward: str | None = None
    reward_without_pmp: str | None = None
    judge: str | None = None
    """Compares answers: a chat model, or a reward model."""
    opponent: str | None = None
    """No model but its answers to the questions of the task win-rate: a jsonl file, or a run folder."""


ROLES = tuple(name for name in Size.model_fields if name not in ("size", "trained"))
"""What models are in the report."""


class FamilyFile(Part):
    """A family as its file has it."""

    family: str
    trained: int | None = Field(default=None, ge=16)
    """Tokens that the models were trained at: the T of claims about long texts."""
    reach: int = Field(default=4, ge=4)
    """Texts are read up to so many times T, by doubling."""
    documents: str | None = None
    """Texts of that length: a folder of .txt files or a .jsonl file; default sources of installed packages."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    sizes: tuple[Size, ...] = ()
    seeds: tuple[int, ...] = ()

    @field_validator("family")
    @classmethod
    def _a_folders_name(cls, name: str) -> str:
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} is to name a folder; write letters, digits, . and -")
        return name

    @model_validator(mode="after")
    def _sizes_or_seeds(self) -> Self:
        if bool(self.sizes) == bool(self.seeds):
            raise ValueError("wants sizes, a list such as `- {size: 0.5B, chat: FOLDER}`")
        names = [size.size for size in self.sizes] or list(map(str, self.seeds))
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]} is there twice; name it once")
        if bad := [name for name in names if _NAME.fullmatch(name) is None]:
            raise ValueError(f"size {bad[0]!r} is to name a folder; write letters, digits, . and -")
        return self


@dataclass(frozen=True, kw_only=True)
class Line:
    """The models of one size, or those of one training."""

    size: str
    seed: int | None
    trained: int | None
    models: dict[str, str]
    """By role."""

    @property
    def name(self) -> str:
        return self.size if self.seed is None else f"seed-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family whose paths are found."""

    name: str
    reach: int
    documents: str | None
    dtype: str
    trained_here: bool
    lines: tuple[Line, ...]

    @property
    def sizes(self) -> dict[str, list[Line]]:
        """Lines by size: seeds of one size are trainings of the same thing."""
        found: dict[str, list[Line]] = {}
        for line in self.lines:
            found.setdefault(line.size, []).append(line)
        return found


def read_family(path: Path) -> Family:
    """A family file; paths in it are seen from its folder. Raises TaskError."""
    found = read_file(FamilyFile, path)
    lines = [
        Line(
            size=size.size,
            seed=None,
            trained=size.trained or found.trained,
            models={role: _model(path, role, value) for role in ROLES if (value := getattr(size, role)) is not None},
        )
        for size in found.sizes
    ]
    lines += [Line(size=found.family, seed=seed, trained=found.trained, models={}) for seed in found.seeds]
    return Family(
        name=found.family,
        reach=found.reach,
        documents=None if found.documents is None else _place(path, found.documents),
        dtype=found.dtype,
        trained_here=bool(found.seeds),
        lines=tuple(lines),
    )


def _model(file: Path, role: str, name: str) -> str:
    """Raises TaskError for what is neither there nor known by name."""
    place = _place(file, name)
    if not Path(place).exists():
        try:
            entry(name)
        except DownloadError as error:
            raise TaskError(f"{file}: {role}: {error}") from error
    return place


def _place(file: Path, name: str) -> str:
    """A path from the file's folder if there is one, else the name as it is (a catalogue name)."""
    beside = (file.parent / Path(name).expanduser()).resolve()
    return str(beside) if beside.exists() else name
