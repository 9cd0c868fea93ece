"""The cells of a sweep: the product of what is varied. A cell is a name and the words that set it, as typed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.long_context import VALUES, from_words
from tasks.api import TaskError

if TYPE_CHECKING:
    from qwen_model.long_context import LongContext

EXAMPLE = "dynamic_ntk=off,exact logn=off,on"
NONE = {"dynamic_ntk": "off", "logn": "off", "window": "none"}
PARTS: Mapping[str, Mapping[str, str]] = {
    "none": {},
    "ntk": {"dynamic_ntk": "exact"},
    "ntk-released": {"dynamic_ntk": "released"},
    "logn": {"logn": "on"},
    "window": {"window": "report"},
}
"""What the rows of the report's Table 3 are made of, joined by +."""


def _whole(word: str) -> int:
    if not (word.isascii() and word.isdigit()):
        raise ValueError("no whole number")
    return int(word)


def _number(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise ValueError("no finite number")
    return number


RUN: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "model": ("model", str),
    "task": ("tasks", lambda word: (word,)),
    "dtype": ("dtype", str),
    "backend": ("backend", str),
    "device": ("device", str),
    "seed": ("seed", _whole),
    "samples": ("draws", _whole),
    "temperature": ("temperature", _number),
    "top_p": ("top_p", _number),
    "shots": ("shots", _whole),
    "shots_file": ("shots_file", Path),
    "documents": ("documents", Path),
    "stride": ("stride", _whole),
}
"""Settings of a run that may be varied: the field of `harness.evaluation.Settings`, and how its words are read."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting of everything that is varied."""

    name: str
    values: Mapping[str, str]
    long_context: LongContext | None
    """Laid over the model; None where no key speaks of it."""
    run: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Settings`."""


Axis = Sequence[tuple[str, Mapping[str, str]]]
"""The choices on one axis: what each adds to a cell's name, and the words that it sets."""


def cells(models: Sequence[str], tasks: Sequence[str], rows: Sequence[str], grid: Sequence[str]) -> list[Cell]:
    """The product of models, tasks, rows and grid. Raises TaskError, one line, for what is misspelt or named twice."""
    axes: list[Axis] = [_choices("model", _distinct(models, "--model")), _choices("task", _distinct(tasks, "--task"))]
    if rows:
        axes.append([(row, _row(row)) for row in _distinct(rows, "--rows")])
    seen: set[str] = {key for axis in axes for key in axis[0][1]}
    for item in grid:
        key, words = _item(item)
        if key in seen:
            raise TaskError(f"--grid: {key} is set already, by another option or twice; set it once")
        seen.add(key)
        axes.append(_choices(key, words))
    found = []
    for choice in product(*axes):
        values = {key: word for _, words in choice for key, word in words.items()}
        name = " ".join(label for label, _ in choice if label) or "as it is"
        found.append(_cell(name, values))
    return found


def _distinct(words: Sequence[str], option: str) -> Sequence[str]:
    if not words:
        raise TaskError(f"{option}: names nothing")
    twice = [word for word in words if words.count(word) > 1]
    if twice:
        raise TaskError(f"{option}: {twice[0]} is named twice; name it once")
    return words


def _choices(key: str, words: Sequence[str]) -> Axis:
    """What has one value only is no part of names."""
    plain = key in ("model", "task")
    return [("" if len(words) == 1 else word if plain else f"{key}={word}", {key: word}) for word in words]


def _row(row: str) -> dict[str, str]:
    """The switches of a row such as ntk+logn+window, where a part may also be KEY=VALUE."""
    values = dict(NONE)
    for part in row.split("+"):
        key, equals, word = part.partition("=")
        if part in PARTS:
            values |= PARTS[part]
        elif equals and key in VALUES:
            values[key] = word
        else:
            raise TaskError(
                f"--rows: {part!r} is not one of {', '.join(PARTS)} or KEY=VALUE with {', '.join(VALUES)}"
                f"{_meant(part, [*PARTS, *VALUES])}; join parts by +, such as ntk+logn"
            )
    return values


def _item(item: str) -> tuple[str, list[str]]:
    key, equals, text = item.partition("=")
    words = [word.strip() for word in text.split(",")]
    if not (equals and key and all(words)):
        raise TaskError(f"--grid: {item!r} is not KEY=VALUE[,VALUE], such as {EXAMPLE}")
    known = [*VALUES, *(name for name in RUN if name not in ("model", "task"))]
    if key not in known:
        raise TaskError(f"--grid: no switch is called {key!r}{_meant(key, known)}; there are {', '.join(known)}")
    return key, list(_distinct(words, f"--grid {key}"))


def _meant(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _cell(name: str, values: Mapping[str, str]) -> Cell:
    switches = {key: word for key, word in values.items() if key in VALUES}
    run: dict[str, Any] = {}
    for key, word in values.items():
        if key in RUN:
            field_name, read = RUN[key]
            try:
                run[field_name] = read(word)
            except ValueError as error:
                raise TaskError(f"--grid: {key} is {word!r}, {error}; mend it") from None
    laid = from_words(switches, "--grid") if switches else None
    return Cell(name=name, values=values, long_context=laid, run=run)
