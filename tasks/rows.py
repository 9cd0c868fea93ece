"""Reading fields out of data rows, with errors that name the source, the item, the field and the remedy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.api import Loader, Row, Source, TaskError

REMEDY = "point --data-dir at an intact copy, or leave it out to use the default source"


def fetch(load: Loader, source: Source) -> Sequence[Row]:
    """The rows of a source, of which there is at least one."""
    rows = load(source)
    if not len(rows):
        raise TaskError(f"{source.name}: the data set has no rows; {REMEDY}")
    return rows


def documents(source: Source, load: Loader) -> list[Row]:
    """The rows; those of a mirror are requests that hold the row as "doc", of which equal ones count once."""
    found: dict[object, Row] = {}
    for index, row in enumerate(fetch(load, source)):
        if isinstance(row, Mapping) and "doc" in row:
            document = value(source, index, row, "doc")
            found.setdefault(json.dumps(document, sort_keys=True), document)
        else:
            found[index] = row
    return list(found.values())


def bad(source: Source, item: int | str, what: str) -> TaskError:
    """The error for one bad item."""
    return TaskError(f"{source.name}, item {item}: {what}; {REMEDY}")


def value(source: Source, item: int | str, row: Row, key: str) -> Any:
    """A field that must be there."""
    if not isinstance(row, Mapping):
        raise bad(source, item, f"expected an object with fields, got {type(row).__name__}")
    if key not in row or row[key] is None:
        raise bad(source, item, f"field {key!r} is missing")
    return row[key]


def text(source: Source, item: int | str, row: Row, key: str) -> str:
    """A field that must be a string."""
    found = value(source, item, row, key)
    if not isinstance(found, str):
        raise bad(source, item, f"field {key!r} is {type(found).__name__}, not text")
    return found
