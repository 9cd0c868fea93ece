"""Pairs of answers of which people preferred one.

{"messages": [{"role": "user", "content": "Hi"}], "chosen": "Hello!", "rejected": "No.", "margin": 1.0, "tie": false}
{"messages": [...], "answers": [{"text": "Hello!", "score": 4}, {"text": "No.", "score": 1}]}
{"fields": {"messages": [["user", "Hi"]], "chosen": "Hello!", "rejected": "No."}}   as `harness tasks --dump preference`

`margin` and `tie` may be left out. Scored answers make a pair of every two, whose margin is the difference of their
scores; equal scores are a tie (the report's annotators give scores, section 3.2.1).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from qwen_model import ModelError
from qwen_model.chatml import ChatTokenizer, encode_prompt
from qwen_train.alignment.conversations import BadRow, RowError, rows


@dataclass(frozen=True)
class Pair:
    """What was said before, and two answers to it."""

    messages: tuple[tuple[str, str], ...]
    chosen: str
    rejected: str
    margin: float
    tie: bool
    where: str


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of both texts, each ended by `<|im_end|>`; an answer begins at `start`, which both share."""

    chosen: list[int]
    rejected: list[int]
    start: int
    margin: float
    tie: bool

    @property
    def size(self) -> int:
        return len(self.chosen) + len(self.rejected)


def read_pairs(path: Path) -> tuple[list[Pair], list[BadRow]]:
    """All pairs of a file, and the rows that are none. Raises ModelError where no row is good."""
    good: list[Pair] = []
    bad: list[BadRow] = []
    for where, row in rows(path):
        try:
            good += _pairs(row, where)
        except RowError as error:
            bad.append(BadRow(where, str(error), json.dumps(row, ensure_ascii=False)))
    if not good:
        first = f"; {bad[0].where}: {bad[0].problem}" if bad else ""
        raise ModelError(f"{path}: none of {len(bad)} rows is a pair{first}; docs/alignment.md has the formats")
    return good, bad


def encode_pairs(pairs: list[Pair], tokenizer: ChatTokenizer, length: int) -> tuple[list[EncodedPair], list[str]]:
    """Token ids, and where those pairs are that were left out because a text is longer than `length`."""
    found: list[EncodedPair] = []
    dropped: list[str] = []
    for pair in pairs:
        before = encode_prompt(tokenizer, pair.messages)
        texts = [end_answer(tokenizer, before, answer) for answer in (pair.chosen, pair.rejected)]
        if max(map(len, texts)) > length:
            dropped.append(pair.where)
        else:
            found.append(EncodedPair(texts[0], texts[1], start=len(before), margin=pair.margin, tie=pair.tie))
    if not found:
        raise ModelError(f"length: all {len(dropped)} pairs are longer than {length} tokens; raise it")
    return found, dropped


def end_answer(tokenizer: ChatTokenizer, before: list[int], answer: str) -> list[int]:
    """A text as the reward model reads it: up to the token at which its head is read, `<|im_end|>`."""
    return [*before, *tokenizer.encode(answer), tokenizer.im_end]


def _pairs(row: Any, where: str) -> list[Pair]:
    if isinstance(row, Mapping) and isinstance(row.get("fields"), Mapping):
        row = row["fields"]
    if not isinstance(row, Mapping):
        raise RowError("not a JSON object")
    messages = messages_of(row)
    if "answers" in row:
        scored = [_scored(answer, place) for place, answer in enumerate(_listed(row["answers"]), start=1)]
        if len(scored) < 2:
            raise RowError("field 'answers' has no two answers")
        found = []
        for one, other in combinations(scored, 2):
            (best, high), (worst, low) = (one, other) if one[1] >= other[1] else (other, one)
            if best != worst:
                found.append(Pair(messages, best, worst, high - low, high == low, where))
        if not found:
            raise RowError("all answers are the same")
        return found
    texts = [row.get(name) for name in ("chosen", "rejected")]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise RowError("fields 'chosen' and 'rejected' are not both texts with something in them")
    margin, tie = row.get("margin", 0.0), row.get("tie", False)
    if not isinstance(margin, int | float) or isinstance(margin, bool) or not 0 <= margin < float("inf"):
        raise RowError(f"margin {margin!r} is no number of 0 or more")
    if not isinstance(tie, bool):
        raise RowError(f"tie {tie!r} is neither true nor false")
    if texts[0] == texts[1]:
        raise RowError("both answers are the same")
    return [Pair(messages, str(texts[0]), str(texts[1]), float(margin), tie, where)]


def messages_of(row: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The turns before the answer, or the one of a field `prompt`. Raises RowError."""
    if isinstance(row.get("prompt"), str) and row["prompt"].strip():
        return (("user", row["prompt"]),)
    turns = _listed(row.get("messages"))
    found = []
    for place, turn in enumerate(turns, start=1):
        pair = (turn.get("role"), turn.get("content")) if isinstance(turn, Mapping) else turn
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise RowError(f"turn {place}: not a role and a content")
        if pair[0] not in ("system", "user", "assistant"):
            raise RowError(f"turn {place}: role {pair[0]!r} is not one of system, user, assistant")
        found.append((pair[0], pair[1]))
    if not found or found[-1][0] != "user":
        raise RowError("the last of `messages` is not the user's")
    return tuple(found)


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise RowError("neither a text `prompt` nor a list `messages` (or `answers`)")
    return value


def _scored(answer: Any, place: int) -> tuple[str, float]:
    text, score = (answer.get("text"), answer.get("score")) if isinstance(answer, Mapping) else (None, None)
    if not isinstance(score, int | float) or isinstance(score, bool) or not math.isfinite(score):
        raise RowError(f"answer {place}: score {score!r} is no finite number")
    if not isinstance(text, str) or not text.strip():
        raise RowError(f"answer {place}: not a text with a score")
    return text, float(score)
