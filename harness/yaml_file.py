"""Users' YAML files as tables and typed values: what is wrong is one line naming the file, the field and the remedy.

Every function takes the kind of error that it raises, since commands of several packages read such files.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

Kind = TypeVar("Kind", bound=BaseModel)


def read_table(path: Path | Traversable, where: str, error: type[Exception], example: str) -> dict[str, Any]:
    """The file's keys with what they hold; `where` names it in errors, `example` is a line of such a file."""
    import yaml

    class Once(yaml.SafeLoader):
        """A key that stands twice is an error: one of the two would be lost without a word."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            names = [key.value for key, _ in node.value]
            if twice := [name for name in names if names.count(name) > 1]:
                raise yaml.YAMLError(f"{twice[0]} stands there twice")
            return super().construct_mapping(node, deep)

    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Once)
    except OSError as problem:
        raise error(f"{where}: {problem.strerror}; name a YAML file") from problem
    except (UnicodeDecodeError, yaml.YAMLError) as problem:
        raise error(f"{where}: not YAML ({' '.join(str(problem).split())}); mend it") from problem
    if not isinstance(content, dict):
        raise error(f"{where}: not a table of settings; write lines such as `{example}`")
    return content


def typed(kind: type[Kind], content: Mapping[str, Any], where: str, error: type[Exception]) -> Kind:
    """The table as a `kind`."""
    try:
        return kind.model_validate(content)
    except ValidationError as problem:
        raise error(f"{where}: {_line(kind, problem)}") from problem


def nearest(name: str, known: Iterable[str]) -> str:
    """What was probably meant, or all there are."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"


def _line(kind: type[BaseModel], problem: ValidationError) -> str:
    first = problem.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"{where}: no such field; {nearest(str(first['loc'][-1]), _fields_beside(kind, first['loc']))}"
    said = first["msg"].removeprefix("Value error, ")
    if not where:
        return said
    given = "" if first["type"] == "missing" else f", not {first['input']!r}"[:200]
    return f"{where}: {said}{given}"


def _fields_beside(kind: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """The fields of the part of `kind` in which the last one of `place` stands, as far as the types tell it: names of
    alternatives and numbers of list items are passed over."""
    parts = [kind]
    for step in place[:-1]:
        inner = [
            part for one in parts if step in one.model_fields for part in _parts(one.model_fields[str(step)].annotation)
        ]
        tagged = [one for one in parts if any(step in get_args(f.annotation) for f in one.model_fields.values())]
        parts = inner or tagged or parts
    return list(dict.fromkeys(name for one in parts for name in one.model_fields))


def _parts(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [part for inner in get_args(annotation) for part in _parts(inner)]
