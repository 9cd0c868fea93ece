"""Recipes from YAML, with changes from the command line; a field that is unknown or wrong is an error of one line."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from qwen_train.errors import TrainError
from qwen_train.trainer import Section

Kind = TypeVar("Kind", bound=Section)


def read_stage(path: Path, kind: type[Kind], changes: list[str]) -> Kind:
    """A stage's recipe of that kind. Raises TrainError naming the file and the field."""
    return checked(read_yaml(path), kind, changes, str(path))


def checked(content: dict[str, Any], kind: type[Kind], changes: list[str], where: str) -> Kind:
    """The recipe of a YAML table, `changes` (FIELD=VALUE, with dots for fields of fields) laid over it."""
    for change in changes:
        _lay(content, change)
    try:
        return kind(**content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        known = f"; there are {', '.join(kind.model_fields)}" if first["type"] == "extra_forbidden" else ""
        place = f"{place}: " if place else ""
        raise TrainError(f"{where}: {place}{str(first['msg']).removeprefix('Value error, ')}{known}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """A table from a file, or from a recipe of the package by its name. Raises TrainError."""
    packaged = files("qwen_train") / "recipes" / f"{path.stem}.yaml"
    if not path.is_file() and not packaged.is_file():
        raise TrainError(f"{path}: no such recipe; docs/alignment.md has one for each stage")
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else packaged.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrainError(f"{path}: not YAML ({' '.join(str(error).split())}); mend it") from error
    if not isinstance(content, dict):
        raise TrainError(f"{path}: not a table of settings; docs/alignment.md has one for each stage")
    return content


def _lay(content: dict[str, Any], change: str) -> None:
    field, equals, value = change.partition("=")
    *outer, last = field.split(".")
    if not equals or not last:
        raise TrainError(f"--set: {change!r} is not FIELD=VALUE, such as optimiser.learning_rate=1e-5")
    for name in outer:
        content = content.setdefault(name, {})
        if not isinstance(content, dict):
            raise TrainError(f"--set: {field}: {name} has no fields")
    try:
        content[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise TrainError(f"--set: {change!r}: {' '.join(str(error).split())}") from error
