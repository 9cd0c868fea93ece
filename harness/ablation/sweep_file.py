"""A sweep as a file: a question and the options of `harness ablate` that answer it (ablations/table3.yaml).

Keys are the options' names; what the command line gives goes before. Paths are seen from the file's folder.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.api import TaskError

LISTS = ("task", "model", "rows", "lengths")
PATHS = ("documents", "data_dir", "out")
WORDS = ("question", "base", "dtype", "device", "limit", "train_length")
KEYS = (*WORDS[:1], *LISTS, "grid", "filter", *PATHS, *WORDS[1:])


def read_sweep_file(path: Path) -> dict[str, Any]:
    """The file's options as words: lists of them for LISTS, `grid` and `filter` as KEY=VALUE,... each.

    Raises TaskError, one line that names the key.
    """
    import yaml

    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TaskError(f"--config: {path} cannot be read ({error.strerror}); name another") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TaskError(f"--config: {path} is no YAML ({' '.join(str(error).split())}); mend it") from error
    if not isinstance(read, dict):
        raise TaskError(f"--config: {path} holds no keys; give such as `task: long-ppl` on a line of its own")
    found: dict[str, Any] = {}
    for key, value in read.items():
        name = str(key).replace("-", "_")
        if name not in KEYS:
            close = difflib.get_close_matches(name, KEYS, n=1)
            meant = f" (did you mean {close[0]}?)" if close else ""
            raise TaskError(f"--config: {path}: no key {key!r}{meant}; there are {', '.join(KEYS)}")
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
