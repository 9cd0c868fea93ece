"""What `qwen-train data` does, as one YAML file. The report names the steps and no number: all defaults are ours."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from harness.yaml_file import read_table, typed
from qwen_train.data.pii import KINDS
from qwen_train.data.rules import RULES
from qwen_train.errors import TrainError


class Section(BaseModel):
    """A part of the file; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Near(Section):
    """Near duplicates: MinHash signatures, cut into bands that are compared (docs/training-data.md)."""

    threshold: float = Field(default=0.8, gt=0, le=1)
    """Jaccard similarity of the shingles, by the signatures, from which on two documents are the same."""
    permutations: int = Field(default=128, ge=8)
    bands: int = Field(default=16, ge=1)
    shingle: int = Field(default=5, ge=1)
    """Words in a row; a Chinese character is a word."""

    @model_validator(mode="after")
    def _whole_bands(self) -> Near:
        if self.permutations % self.bands:
            raise ValueError(f"{self.permutations} permutations are not whole bands of {self.bands}")
        return self


class Quality(Section):
    """A classifier trained on good and bad examples: files or folders, read as a corpus is."""

    good: Path
    bad: Path
    least: float = Field(default=0.5, ge=0, le=1)
    """Probability of being good from which on a document stays."""


class Perplexity(Section):
    """A small model's perplexity of a document's beginning."""

    model: str
    """A checkpoint folder or a catalogue name."""
    most: float = Field(gt=1)
    tokens: int = Field(default=256, ge=2)


class Decontaminate(Section):
    """Removes what shares a 13-gram with test items of the harness's tasks."""

    tasks: tuple[str, ...]
    data_dir: Path | None = None
    all_documents: bool = False
    """Not only the instruction data, as the report has it."""


class DataConfig(Section):
    """The whole file."""

    text_field: str = "text"
    languages: tuple[str, ...] = ()
    """ISO 639 codes that are kept, such as en and zh; none: all."""
    code_sources: tuple[str, ...] = ()
    """Sources whose rows are code; files named .py and the like are so anyway."""
    rules: dict[str, float | None] = {}
    """Other limits than the default; null switches a rule off."""
    near: Near | None = Near()
    quality: Quality | None = None
    perplexity: Perplexity | None = None
    mask: tuple[str, ...] = KINDS
    repeat: dict[str, float] = {}
    """Source: how often its documents are written; 1.5 is once, and every second one twice."""
    instructions: tuple[Path, ...] = ()
    """Files or folders of instruction data that is mixed in."""
    decontaminate: Decontaminate | None = None

    @field_validator("rules")
    @classmethod
    def _known_rules(cls, rules: dict[str, float | None]) -> dict[str, float | None]:
        _check_known(rules, [rule.name for rule in RULES])
        return rules

    @field_validator("mask")
    @classmethod
    def _known_kinds(cls, mask: tuple[str, ...]) -> tuple[str, ...]:
        _check_known(mask, KINDS)
        return mask


def _check_known(names: Iterable[str], known: Iterable[str]) -> None:
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"{unknown[0]!r} is none of {', '.join(known)}")


def read_config(path: Path | None) -> DataConfig:
    """The settings of a file, or the default ones. Raises TrainError that names the file, the field and the fault."""
    if path is None:
        return DataConfig()
    where = str(path)
    return typed(DataConfig, read_table(path, where, TrainError, "languages: [en, zh]"), where, TrainError)
