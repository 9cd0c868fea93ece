"""Conversations from the formats in which people publish them.

ChatML messages   {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
ShareGPT          {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]}
Alpaca            {"instruction": "Add.", "input": "1 2", "output": "3"}

A file is .jsonl (a row per line) or .json (a list of rows). A row that is none of these, or breaks its format's rules,
is returned with its place and what is wrong with it, never dropped in silence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen_model import ModelError

_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "observation": "observation",
    "tool": "observation",
    "function": "observation",
}


@dataclass(frozen=True)
class Conversation:
    """Pairs of (role, content), as `qwen_model.chatml` takes them; the last turn is the assistant's."""

    messages: tuple[tuple[str, str], ...]
    where: str
    """File and line, or the number of the row in a list, from 1."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: where it is, what is wrong, and what it says."""

    where: str
    problem: str
    row: str


class RowError(Exception):
    """What is wrong with a row."""


def read_conversations(path: Path) -> tuple[list[Conversation], list[BadRow]]:
    """All rows of a file, the good and the bad. Raises ModelError where no row is good."""
    good: list[Conversation] = []
    bad: list[BadRow] = []
    for where, row in rows(path):
        try:
            good.append(Conversation(parse(row), where))
        except RowError as error:
            bad.append(BadRow(where, str(error), row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)))
    if not good:
        first = f"; {bad[0].where}: {bad[0].problem}" if bad else ""
        raise ModelError(f"{path}: none of {len(bad)} rows is a conversation{first}; docs/alignment.md has the formats")
    return good, bad


def rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(Place, row) of a .jsonl or .json file; a line that is not JSON is returned as its text.

    Raises ModelError for a file that is missing, unreadable or of another kind.
    """
    if path.suffix not in (".jsonl", ".json"):
        raise ModelError(f"{path}: neither .jsonl nor .json; convert it to a JSON object per line")
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); name an existing file") from error
    if path.suffix == ".json":
        try:
            listed = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{path}: not JSON ({error}); one object per line belongs into a .jsonl file") from error
        if not isinstance(listed, list):
            raise ModelError(f"{path}: not a list of rows; one object per line belongs into a .jsonl file")
        yield from ((f"{path.name} row {place}", row) for place, row in enumerate(listed, start=1))
        return
    # not splitlines: it breaks at characters that JSON allows within a text
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield f"{path.name}:{number}", json.loads(line)
            except (ValueError, RecursionError):
                yield f"{path.name}:{number}", line


def parse(row: Any) -> tuple[tuple[str, str], ...]:
    """The messages of a row in any of the formats, up to the assistant's last turn. Raises RowError."""
    if not isinstance(row, Mapping):
        raise RowError("not a JSON object")
    if "messages" in row:
        messages = _turns(row["messages"], "messages", "role", "content")
    elif "conversations" in row:
        messages = _turns(row["conversations"], "conversations", "from", "value")
    elif "instruction" in row:
        messages = _alpaca(row)
    else:
        raise RowError(f"no field messages, conversations or instruction, only {', '.join(map(str, row)) or 'none'}")
    if isinstance(row.get("system"), str) and row["system"] and messages[:1] and messages[0][0] != "system":
        messages.insert(0, ("system", row["system"]))
    return _checked(messages)


def _turns(value: Any, field: str, role_name: str, text_name: str) -> list[tuple[str, str]]:
    if not isinstance(value, list):
        raise RowError(f"field {field!r} is no list")
    messages = []
    for place, turn in enumerate(value, start=1):
        role, text = (turn.get(role_name), turn.get(text_name)) if isinstance(turn, Mapping) else (None, None)
        if role not in _ROLES:
            raise RowError(f"turn {place}: {role_name} {role!r} is not one of {', '.join(_ROLES)}")
        if not isinstance(text, str):
            raise RowError(f"turn {place}: field {text_name!r} is no text")
        messages.append((_ROLES[role], text))
    return messages


def _alpaca(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    texts = {name: row.get(name, "") for name in ("instruction", "input", "output")}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise RowError(f"field {name!r} is no text")
    asked = "\n".join(text for text in (texts["instruction"], texts["input"]) if text.strip())
    return [("user", asked), ("assistant", texts["output"])]


def _checked(messages: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    while messages and messages[-1][0] != "assistant":
        messages = messages[:-1]  # nothing is learnt of what nobody answers
    if not messages:
        raise RowError("no turn is the assistant's")
    for place, (role, text) in enumerate(messages, start=1):
        if role != "system" and not text.strip():
            raise RowError(f"turn {place}: the {role}'s text is empty")
        if role == "system" and place > 1:
            raise RowError(f"turn {place}: a system turn stands only at the beginning")
        if role == "observation" and (place == 1 or messages[place - 2][0] != "assistant"):
            raise RowError(f"turn {place}: a tool's answer does not stand behind an assistant's turn")
    return tuple(messages)
