"""A sweep as a file: a question and the options of `harness ablate` that answer it (ablations/table3.yaml).

Keys are the options' names; what the command line gives goes before. Paths are seen from the file's folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.yaml_file import nearest, read_table
from tasks.api import TaskError

LISTS = ("task", "model", "rows", "lengths")
PATHS = ("documents", "data_dir", "out")
WORDS = ("question", "base", "dtype", "device", "limit", "train_length")
KEYS = (*WORDS[:1], *LISTS, "grid", "filter", *PATHS, *WORDS[1:])


def read_sweep_file(path: Path) -> dict[str, Any]:
    """The file's options as words: lists of them for LISTS, `grid` and `filter` as KEY=VALUE,... each.

    Raises TaskError, one line that names the key.
    """
    read = read_table(path, f"--config: {path}", TaskError, "task: long-ppl")
    found: dict[str, Any] = {}
    for key, value in read.items():
        name = str(key).replace("-", "_")
        if name not in KEYS:
            raise TaskError(f"--config: {path}: no key {key!r}; {nearest(name, KEYS)}")
        where = f"--config: {path}: {key}"
        if name in ("grid", "filter"):
            if not isinstance(value, dict) or not value:
                raise TaskError(f"{where} is no table; give a line `switch: [value, value]` for each")
            found[name] = [
                f"{switch}={','.join(_words(words, f'{where}: {switch}'))}" for switch, words in value.items()
            ]
        elif name in LISTS:
            found[name] = _words(value, where)
        elif name in PATHS:
            found[name] = path.parent / _word(value, where)
        else:
            found[name] = _word(value, where)
    return found


def _words(value: Any, where: str) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise TaskError(f"{where} is empty; give a value or a list")
    return [_word(one, where) for one in values]


def _word(value: Any, where: str) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"  # YAML reads on and off, unquoted, as truths
    if isinstance(value, Mapping | list) or value is None or value == "":
        raise TaskError(f"{where} is {value!r}, no single value; give a word or a number")
    return str(value)
