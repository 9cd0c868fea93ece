"""YAML files as typed values: an unknown key, or a value of another kind, is one line naming file, key and remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.api import TaskError


class Part(BaseModel):
    """A part of a file: no key but those named, and nothing changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


P = TypeVar("P", bound=Part)


def read_file(kind: type[P], path: Path, **given: Any) -> P:
    """The file as a `kind`; `given` are fields that do not stand in it. Raises TaskError."""
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TaskError(f"{path}: {error.strerror}; name a YAML file") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise TaskError(f"{path}: no YAML ({' '.join(str(error).split())}); mend the file") from error
    if not isinstance(read, dict):
        raise TaskError(f"{path}: holds no keys; write lines such as `{next(iter(kind.model_fields))}: ...`")
    try:
        return kind.model_validate({**read, **given})
    except ValidationError as error:
        raise TaskError(f"{path}: {_line(kind, error)}") from error


def _line(kind: type[Part], error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(place) for place in first["loc"])
    if first["type"] == "extra_forbidden":
        key, known = str(first["loc"][-1]), sorted(_keys(kind))
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
        return f"{where}: no key {key!r}; {hint}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}; mend it" if where else f"{message}; mend it"


def _keys(kind: Any) -> set[str]:
    """The keys of a type and of the parts within it."""
    found: set[str] = set()
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        found |= set(kind.model_fields)
        for field in kind.model_fields.values():
            found |= _keys(field.annotation)
    else:
        for inner in _inner(kind):
            found |= _keys(inner)
    return found


def _inner(kind: Any) -> Iterator[Any]:
    for argument in get_args(kind):
        if not isinstance(argument, str | int | float | Mapping):
            yield argument
