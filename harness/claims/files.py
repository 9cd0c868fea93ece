"""The parts of the ledger's YAML files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from harness.yaml_file import read_table, typed
from tasks.api import TaskError


class Part(BaseModel):
    """A part of a file: no key but those named, and nothing changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


P = TypeVar("P", bound=Part)


def read_file(kind: type[P], path: Path, **given: Any) -> P:
    """The file as a `kind`; `given` are fields that do not stand in it. Raises TaskError."""
    read = read_table(path, str(path), TaskError, f"{next(iter(kind.model_fields))}: ...")
    return typed(kind, {**read, **given}, str(path), TaskError)
