"""Options of several commands, from text to values."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.api import TaskError


def filters(asked: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The values wanted of each field. Raises TaskError for what is not FIELD=VALUE."""
    found: dict[str, tuple[str, ...]] = {}
    for item in asked:
        field, equals, values = item.partition("=")
        if not (field and equals and values):
            raise TaskError(f"--filter: {item!r} is not FIELD=VALUE[,VALUE], such as subject=astronomy")
        found[field] = tuple(values.split(","))
    return found


def lengths(asked: str | None) -> tuple[int, ...]:
    """Numbers of tokens. Raises TaskError for what is none."""
    parts = [] if asked is None else [part.strip() for part in asked.split(",")]
    for part in parts:
        if not (part.isascii() and part.isdigit()):
            raise TaskError(f"--lengths: {part!r} is no number of tokens; give such as 1024,2048")
    return tuple(map(int, parts))
