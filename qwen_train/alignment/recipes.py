"""Recipes from YAML, with changes from the command line; a field that is unknown or wrong is an error of one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml

from harness.yaml_file import typed
from qwen_train.errors import TrainError
from qwen_train.recipe_file import read_recipe_table
from qwen_train.trainer import Section

Kind = TypeVar("Kind", bound=Section)


def read_stage(path: Path, kind: type[Kind], changes: list[str]) -> Kind:
    """A stage's recipe of that kind. Raises TrainError naming the file and the field."""
    return checked(read_recipe_table(path), kind, changes, str(path))


def checked(content: dict[str, Any], kind: type[Kind], changes: list[str], where: str) -> Kind:
    """The recipe of a YAML table, `changes` (FIELD=VALUE, with dots for fields of fields) laid over it."""
    for change in changes:
        _lay(content, change)
    return typed(kind, content, where, TrainError)


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
